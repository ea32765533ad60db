"""Where a model's next answer is written: on servers elsewhere or on this machine.

`remote` never falls back. `auto` takes what can answer now: servers while one of them can, else
this machine where the weights are here, and the servers again once they were well for a while.
It looks at files and at what is known of the servers; it starts nothing.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from chat_app.llm import choice, loader
from chat_app.llm.backends.base import Spec
from chat_app.llm.catalogue import Entry
from chat_app.llm.engine import ModelNotReady
from chat_app.settings import Settings

if TYPE_CHECKING:
    from chat_app.llm.servers import Servers

# Servers that came back are trusted again after this: a check and a half.
BACK_SECONDS = 15.0


class Places:
    """See the module. `servers` are None where the settings name none."""

    def __init__(self, settings: Settings, servers: "Servers | None") -> None:
        self._settings = settings
        self._servers = servers

    def servers_for(self, entry: Entry) -> "Servers | None":
        """The servers, when they are to write the next answer; also when nobody can."""
        servers = self._servers
        if servers is None or self._settings.llm.engine == "remote" or servers.can(entry):
            return servers
        return servers if servers.serve(entry) and not self.local(entry) else None

    def here(self, entry: Entry) -> Spec:
        """How this machine runs the model, and why it does. Raises ModelNotReady."""
        spec = choice.choose(entry, self._settings.models_dir, self._settings.llm)
        if self._servers is not None and (reason := self._servers.absent(entry)):
            spec = replace(spec, why=f"{spec.why} {reason}")
        return spec

    def local(self, entry: Entry) -> bool:
        """This machine could write with the model."""
        if not loader.state(entry, self._settings.models_dir).usable:
            return False
        try:
            choice.choose(entry, self._settings.models_dir, self._settings.llm)
        except ModelNotReady:
            return False
        return True

    def wrong(self, entry: Entry, *, elsewhere: bool) -> bool:
        """Who writes with the model now (`elsewhere`: servers) should not begin another answer."""
        servers = self._servers
        if servers is None or self._settings.llm.engine != "auto":
            return False
        if elsewhere:
            return not servers.can(entry) and self.local(entry)
        return servers.can(entry, for_seconds=BACK_SECONDS)
