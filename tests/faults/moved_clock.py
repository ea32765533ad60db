"""`launch.py` with a clock that a file moves: `python moved_clock.py FILE`, seconds in the file.

Both clocks of the program move: its own and the libraries'. The monotonic one does not, as on a
machine whose time was set.
"""

import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import launch
from chat_app.clock import Clock

_FILE = Path(sys.argv[1])
_real_time, _real_now = time.time, Clock.now


def _moved_by() -> float:
    return float(_FILE.read_text() or 0)


def _now(self: Clock) -> datetime:
    return _real_now(self) + timedelta(seconds=_moved_by())


if __name__ == "__main__":
    Clock.now = _now  # type: ignore[method-assign]
    time.time = lambda: _real_time() + _moved_by()
    sys.exit(launch.main([]))
