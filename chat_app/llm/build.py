"""Which engine the settings ask for: the one place where engines are put together."""

from chat_app.llm.engine import Engine
from chat_app.llm.script import ScriptEngine
from chat_app.llm.watch import Watched
from chat_app.settings import Settings


def create(settings: Settings) -> Engine:
    """The engine of this installation, not started yet. Loads nothing and touches no file."""
    llm = settings.llm
    inner: Engine
    if llm.engine == "script":
        inner = ScriptEngine(llm.script)
    else:
        from chat_app.llm.supervisor import Supervisor

        inner = Supervisor(settings)
    return Watched(inner, stall_seconds=llm.stall_seconds, answer_seconds=llm.answer_seconds)
