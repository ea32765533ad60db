"""Sessions of the page: cheap to begin and to keep, and none sees what another changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import StateHolder

from tests.apps import script_settings
from ui.sessions import Pending, Sessions


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
    assert vars(first).keys() - {"_reading", "_passing"} == vars(theirs).keys()
    assert vars(first.blocks_config).keys() == vars(theirs.blocks_config).keys()
    assert dict(first.blocks_config.blocks.items()) == theirs.blocks_config.blocks
    assert first.blocks_config.blocks.keys() == theirs.blocks_config.blocks.keys()
    assert first.blocks_config.fns == theirs.blocks_config.fns
    assert first.blocks_config.renderables == theirs.blocks_config.renderables == []

    key = next(key for key, one in made.blocks.items() if isinstance(one, gr.Dropdown))
    before = second[key]
    for state in (first, theirs):
        state[key] = gr.Dropdown(choices=["a", "b"], render=False)
        assert state[key].choices == [("a", "a"), ("b", "b")]
        assert key in state
        assert state.blocks_config.blocks[key] is state[key]
    assert [*first.blocks_config.blocks] == [*theirs.blocks_config.blocks]
    assert second[key] is before is ours["three"][key] is made.blocks[key]
    with pytest.raises(KeyError):
        first[10**6]
    assert 10**6 not in first
    assert first.get(10**6) is None


def test_state_of_a_page_is_its_own(tmp_path: Path) -> None:
    made = blocks(tmp_path)
    ours = Sessions(made)
    key = next(key for key, one in made.blocks.items() if isinstance(one, gr.State))
    ours["one"][key] = "mine"
    assert ours["one"][key] == "mine"
    assert ours["two"][key] != "mine"
    assert [value for _, value, _ in ours["one"].state_components] == ["mine"]


def test_what_is_only_shown_is_not_kept(tmp_path: Path) -> None:
    """A page's fields and lists read by what they are now; its cards and buttons say nothing."""
    made = blocks(tmp_path)
    state = Sessions(made)["one"]
    read = {part._id for handler in made.fns.values() for part in handler.inputs}
    shown = next(
        key for key, one in made.blocks.items() if isinstance(one, gr.HTML) and key not in read
    )
    field = next(
        key for key, one in made.blocks.items() if isinstance(one, gr.Textbox) and key in read
    )
    state[shown] = told = gr.HTML("changed", render=False)
    assert state[shown] is told, "the page is told of the change"
    assert state[shown] is made.blocks[shown]
    state[field] = changed = gr.Textbox(max_length=3, render=False)
    assert state[field] is changed


def test_nothing_is_described_or_kept_for_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hundreds of components that held the event loop up for 50 ms for each page."""
    made = blocks(tmp_path)

    def told(*_: Any) -> Any:
        raise AssertionError("described again")

    monkeypatch.setattr(type(made.default_config), "config_for_block", staticmethod(told))
    state = Sessions(made)["one"]
    key = next(key for key, one in made.blocks.items() if isinstance(one, gr.HTML))
    state[key] = gr.HTML("changed", render=False)
    state._update_config(key)
    state._update_value_in_config(key, "a message")
    assert state.config_values == {}
    assert [*state.components] == []


def test_a_page_that_waits_for_nothing_is_forgotten(sites: Callable[..., Any]) -> None:
    """Of thirty pages a few are known at the end, and the first one can ask again."""
    with sites() as site:
        person, number = site.person(), site.number("start_new")
        sessions = [f"page{place}" for place in range(30)]
        for person.session in [*sessions, sessions[0]]:
            end, _ = person.call(number, [None])
            assert end["success"], end
        waiting = site.demo._queue.pending_event_ids_session
        assert isinstance(waiting, Pending)
        assert len(waiting) <= 3
        assert len(site.demo._queue.pending_messages_per_session) <= 3


def test_a_page_that_waits_is_kept_however_many_come() -> None:
    queues = {"long": "its queue"}
    waiting = Pending(queues)
    waiting["long"] = {"event"}
    for number in range(100):
        name = f"page{number}"
        queues[name] = "a queue"
        waiting[name] = set()
    assert waiting["long"] == {"event"}
    assert queues["long"] == "its queue"
    assert len(waiting) <= 3
    assert set(queues) == set(waiting)
    assert waiting["nobody"] == set()
