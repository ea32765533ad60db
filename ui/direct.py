"""Direct updates: what a handler says while it runs goes to the page without Gradio's walk.

For each update of a generator Gradio calls the handler anew, walks through its values three times
and describes them: half a millisecond, however small the update. Here the handler is called once
and its updates are put into the page's own queue as the messages that Gradio would have made. The
page cannot tell the difference. A page that has not read the last update gets no other one yet:
the next has all that came meanwhile.
"""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import wraps
from typing import Any

import orjson
from gradio.context import LocalContext
from gradio.utils import diff

Handler = Callable[..., Any]


class Update:
    """One message in the page's queue, encoded already; `read` when it is on its way."""

    msg = "process_generating"

    def __init__(self, event_id: str, values: list[Any]) -> None:
        self.event_id = event_id
        self.read = False
        output = {
            "data": values,
            "is_generating": True,
            "duration": 0.0,
            "average_duration": 0.0,
            "render_config": None,
            "changed_state_ids": [],
        }
        told = {"msg": self.msg, "event_id": event_id, "output": output}
        self._body = orjson.Fragment(orjson.dumps({**told, "success": True, "time_limit": None}))

    def model_dump(self) -> orjson.Fragment:
        """What Gradio sends."""
        self.read = True
        return self._body


class Line:
    """From a running event to the page that began it."""

    def __init__(self, queue: Any, event: Any) -> None:
        self._queue, self._event = queue, event
        self._shown: list[Any] | None = None
        self._last: Update | None = None

    @property
    def closed(self) -> bool:
        """Whether the page is gone, or wants no more of this event."""
        here = self._event.session_hash in self._queue.pending_messages_per_session
        return not (here and self._event.alive)

    def tell(self, values: list[Any], *, last: bool = False) -> None:
        """Show the values, whole the first time and then what is new in them. The `last` ones
        are shown even to a page that has not read those before.
        """
        if self._last is not None and not self._last.read and not last:
            return
        shown, self._shown = self._shown, values
        if shown is not None:
            values = [diff(before, now) for before, now in zip(shown, values, strict=True)]
        self._last = Update(self._event._id, values)
        self._queue.send_message(self._event, self._last)


def line() -> Line | None:
    """That of the event which is handled here; None without one."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event_id is None:
        return None
    event = blocks._queue.event_ids_to_events.get(event_id)
    return None if event is None else Line(blocks._queue, event)


def direct(handler: Handler, outputs: Sequence[Any]) -> Handler:
    """A generator handler as a coroutine that tells its updates itself and returns the last.

    An update that leaves one of the `outputs` out is not told, only returned.
    """

    @wraps(handler)
    async def telling(*args: Any) -> Any:
        page = line()
        update: dict[Any, Any] = {}

        def values() -> list[Any] | None:
            return [update[part] for part in outputs] if update.keys() >= set(outputs) else None

        try:
            async with aclosing(handler(*args)) as updates:
                async for said in updates:
                    update = said
                    if page is None:
                        continue
                    if page.closed:
                        break
                    if (whole := values()) is not None:
                        page.tell(whole)
        except Exception:
            # Nothing is returned then, so what was said last must not be the one left out.
            if page is not None and not page.closed and (whole := values()) is not None:
                page.tell(whole, last=True)
            raise
        return update

    # Gradio would look through to the generator.
    del telling.__wrapped__
    return telling
