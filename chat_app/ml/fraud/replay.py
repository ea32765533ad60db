"""The same figures as online, from a table of what happened: for training and after a restart."""

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from chat_app.errors import Invalid
from chat_app.ml.fraud import events as reading
from chat_app.ml.fraud import features
from chat_app.ml.fraud.state import State

if TYPE_CHECKING:
    import pandas as pd


class BadLabelDelay(Invalid):
    """The label delay is no time span of at least zero."""

    code = "bad_label_delay"
    message = "The label delay is no time span. Give one such as 7D."


def replay(
    events: Any,
    *,
    labels: Mapping[Any, Any] | None = None,
    label_delay: Any = "7D",
    state: State | None = None,
) -> "pd.DataFrame":
    """Figures of each event, in the rows' order, by `event_id`; events are gone through in time.

    `events` is a DataFrame or dicts with the fields of the engine; those of equal times keep
    their order, and an id that comes twice counts once. `labels` (id: 1 or 0) become known
    `label_delay` after their event and move the risk of what they touched from then on. A given
    `state` is gone on from and takes everything in. Raises BadEvent.
    """
    import numpy as np
    import pandas as pd

    try:
        delay = pd.Timedelta(label_delay).total_seconds()
    except (ValueError, TypeError) as error:
        raise BadLabelDelay from error
    if not delay >= 0:
        raise BadLabelDelay
    memory = state or State()
    read = [reading.read(row) for row in _rows(events)]
    found = np.full((len(read), len(features.NAMES)), np.nan)
    first: dict[str, int] = {}
    waiting: list[tuple[float, int]] = []
    known = {str(id): bool(value) for id, value in (labels or {}).items()}
    for place in sorted(range(len(read)), key=lambda place: read[place].ts):
        event = read[place]
        while waiting and waiting[0][0] <= event.ts:
            memory.confirm(read[heappop(waiting)[1]], True)
        if event.id in first:
            found[place] = found[first[event.id]]
            continue
        first[event.id] = place
        found[place] = features.observe(memory, event)
        if known.get(event.id):
            heappush(waiting, (event.ts + delay, place))
    index = pd.Index([event.id for event in read], name="event_id", dtype=object)
    return pd.DataFrame(found, index=index, columns=list(features.NAMES))


def _rows(events: Any) -> Iterable[Mapping[str, Any]]:
    import pandas as pd

    if isinstance(events, pd.DataFrame):
        records: list[Mapping[str, Any]] = events.to_dict("records")
        return records
    return list(events)
