"""Setting up: what is missing is said, and a model is brought by one call, once, with a trace."""

import time
from pathlib import Path

import pytest

from chat_app.audit import log as audit
from chat_app.flows import setup
from chat_app.llm import catalogue
from chat_app.llm.engine import UnknownModel
from tests.apps import answer, ask, in_loop, person, running_app
from tests.llm.test_loader import entry_of


@in_loop
async def test_a_model_is_brought_here_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(tmp_path)
    monkeypatch.setattr(catalogue, "_ENTRIES", (entry, *catalogue.entries()))
    async with running_app(tmp_path / "data", models_dir=tmp_path / "models") as app:
        admin = await person(app, "root")
        before = setup.look(app)
        assert (before.people, before.answered, before.shop) == (1, False, "offline")
        tiny = before.models[0]
        assert (tiny.entry.id, tiny.here, tiny.fetch) == ("tiny", False, None)
        assert {"clock", "disk", "database", "mail"} <= {item.name for item in before.findings}
        for _ in range(2):  # the second changes nothing
            await setup.fetch(app, admin_id=admin, model="tiny")
        end = time.monotonic() + 60
        while not (found := setup.models(app)[0]).here:
            assert time.monotonic() < end, found.fetch
            time.sleep(0.05)
        with pytest.raises(setup.ModelIsHere):
            await setup.fetch(app, admin_id=admin, model="tiny")
        with pytest.raises(UnknownModel):
            await setup.fetch(app, admin_id=admin, model="huge")
        with app.db.read() as session:
            events, _ = audit.find(session, type="model_download_started")
        assert [(event.actor, event.facts) for event in events] == [
            (f"user:{admin}", {"model": "tiny"})
        ]
        await answer(app, admin, await ask(app, admin))
        assert setup.look(app).answered
