"""Sessions of the page: cheap to begin, and none sees what another changed."""

from pathlib import Path
from typing import Any

import pytest
from gradio.state_holder import SessionState, StateHolder

from tests.apps import script_settings
from ui.sessions import Descriptions, Sessions


def blocks(tmp_path: Path) -> Any:
    from chat_app.app import build
    from ui import page

    app = build(script_settings(tmp_path))
    return page.build(app)


def test_a_session_is_as_gradio_makes_it_and_its_own(tmp_path: Path) -> None:
    made = blocks(tmp_path)
    plain, ours = StateHolder(), Sessions(made)
    plain.set_blocks(made)
    first, second, theirs = ours["one"], ours["two"], plain["one"]
    assert isinstance(first, SessionState)
    assert dict(first.config_values.items()) == theirs.config_values
    assert [*first.components] == [*theirs.components]
    assert vars(first).keys() == vars(theirs).keys()

    key = next(key for key, one in theirs.config_values.items() if "value" in one.get("props", {}))
    before = theirs.config_values[key]["props"]["value"]
    for state in (first, theirs):
        state._update_value_in_config(key, "changed")
    assert dict(first.config_values.items()) == theirs.config_values
    assert second.config_values[key]["props"]["value"] == before
    assert ours["three"].config_values[key]["props"]["value"] == before
    first[key] = second[key]
    assert first.config_values[key] == second.config_values[key]


def test_beginning_one_describes_no_component_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hundreds of components that held the event loop up for 50 ms for each page."""
    made = blocks(tmp_path)
    ours = Sessions(made)

    def told(*_: Any) -> Any:
        raise AssertionError("described again")

    monkeypatch.setattr(type(made.default_config), "config_for_block", staticmethod(told))
    state = ours["one"]
    assert isinstance(state.config_values, Descriptions)
    assert len(state.config_values) == 0
