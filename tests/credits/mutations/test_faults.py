"""The model must notice faults: at least 30 of 33 kept ones, or it proves nothing.

A quick run tries every third; `pytest --full` all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from chat_app.db import Database
from tests.credits import model
from tests.credits.mutations.faults import KEPT, Fault
from tests.effort import effort

WANTED = 30
# No shrinking: it is enough to know that it fails.
RUN = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    print_blob=False,
    report_multiple_bugs=False,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def made(fault: Fault) -> Iterator[None]:
    """The module with the fault in it, in this process."""
    module = import_module(f"chat_app.credits.{fault.module}")
    path = Path(str(module.__file__))
    right = path.read_text(encoding="utf-8")
    assert right.count(fault.there) == 1, f"{fault.name}: {right.count(fault.there)} places"
    before = dict(module.__dict__)
    wrong = right.replace(fault.there, fault.becomes)
    exec(compile(wrong, f"<{fault.name}>", "exec"), module.__dict__)
    try:
        yield
    finally:
        module.__dict__.update(before)


def killed(fault: Fault, path: Path) -> bool:
    class Faulty(model.Machine):
        pass

    Faulty.path = path
    with made(fault):
        try:
            run_state_machine_as_test(Faulty, settings=RUN)
        except Exception:
            return True
    return False


def test_the_model_kills_the_kept_faults(sqlite_database: Database) -> None:
    assert len(KEPT) == 33
    path = Path(str(sqlite_database.engine.url.database))
    tried = effort(KEPT, KEPT[::3])
    results = {fault.name: killed(fault, path) for fault in tried}
    for name, dead in results.items():
        print(f"{'killed  ' if dead else 'SURVIVED'} {name}")
    survivors = [name for name, dead in results.items() if not dead]
    assert len(survivors) <= len(KEPT) - WANTED, survivors
