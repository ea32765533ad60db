"""The time series: compact rows that survive restarts, full disks and clocks that jump."""

import sqlite3
import stat
from pathlib import Path

import pytest

from chat_app.monitor import series
from chat_app.monitor.series import DAY, MINUTE, QUARTER, Keep, Recorder, Store, Tally

NOON = 1_795_000_000 - 1_795_000_000 % DAY + DAY // 2
ME = "here:7860"


def tally(*values: float) -> Tally:
    made = Tally()
    for value in values:
        made.add(value)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "monitor.db")


def all_of(store: Store, step: int, source: str = ME) -> list[series.Slot]:
    return store.read(source, since=0, until=2**40, step=step)


def test_a_minute_goes_into_its_quarter_and_its_day(store: Store) -> None:
    for minute, values in enumerate([(1.0, 5.0), (3.0,), (2.0, 2.0, 8.0)]):
        store.add(ME, NOON + minute * 60, {"cpu": tally(*values)})
    minutes = all_of(store, MINUTE)
    assert [slot.at for slot in minutes] == [NOON, NOON + 60, NOON + 120]
    assert minutes[0].tallies["cpu"] == Tally(2, 1, 5, 6, 5)
    for step in (QUARTER, DAY):
        (whole,) = all_of(store, step)
        assert whole.at == NOON - NOON % step
        assert whole.tallies["cpu"] == Tally(6, 1, 8, 21, 8)
        assert whole.tallies["cpu"].mean == 3.5


def test_only_the_figures_that_are_asked_for(store: Store) -> None:
    store.add(ME, NOON, {"a": tally(1), "b": tally(2)})
    (slot,) = store.read(ME, since=NOON, until=NOON + 1, step=MINUTE, names={"b", "unknown"})
    assert set(slot.tallies) == {"b"}
    assert store.read(ME, since=NOON + 60, until=NOON + 120, step=MINUTE) == []


def test_a_restart_goes_on_in_the_same_minute(tmp_path: Path) -> None:
    for value in (1.0, 3.0):
        store = Store(tmp_path / "monitor.db")
        recorder = Recorder(store, ME)
        recorder.record({"cpu": value}, at=NOON + 5)
        recorder.flush()
        store.close()
    (slot,) = all_of(Store(tmp_path / "monitor.db"), MINUTE)
    assert slot.tallies["cpu"] == Tally(2, 1, 3, 4, 3)


def test_old_rows_go_by_number(tmp_path: Path) -> None:
    store = Store(tmp_path / "monitor.db", Keep(minutes=10, quarters=3, days=2))
    for minute in range(60):
        store.add(ME, NOON + 60 * minute, {"cpu": tally(minute)})
    assert [slot.at for slot in all_of(store, MINUTE)] == [NOON + 60 * m for m in range(50, 60)]
    assert len(all_of(store, QUARTER)) == 3
    assert all_of(store, DAY)[0].tallies["cpu"].count == 60


@pytest.mark.parametrize("jump", [2 * DAY, -2 * DAY, 400 * DAY])
def test_a_clock_that_jumps_costs_no_history(tmp_path: Path, jump: int) -> None:
    """±2 days and back again: what was there is there, and what came meanwhile too."""
    store = Store(tmp_path / "monitor.db", Keep(minutes=100, quarters=100, days=100))
    recorder = Recorder(store, ME)
    for at in (NOON, NOON + 60, NOON + 120 + jump, NOON + 180 + jump, NOON + 180, NOON + 180):
        recorder.record({"cpu": 1.0}, at=at)
    recorder.flush()
    rows = {slot.at: slot.tallies["cpu"].count for slot in all_of(store, MINUTE)}
    assert rows == {
        NOON: 1, NOON + 60: 1, NOON + 120 + jump: 1, NOON + 180 + jump: 1, NOON + 180: 2,
    }  # fmt: skip


def test_the_minute_that_is_not_over_is_shown(store: Store) -> None:
    recorder = Recorder(store, ME)
    recorder.record({"cpu": 1.0}, at=NOON)
    recorder.record({"cpu": 5.0}, at=NOON + 60)
    recorder.record({"cpu": 7.0, "odd": float("nan")}, at=NOON + 65)
    shown = recorder.read(since=NOON, until=NOON + 66, step=MINUTE)
    assert [slot.tallies["cpu"].mean for slot in shown] == [1, 6]
    assert "odd" not in shown[1].tallies
    (quarter,) = recorder.read(since=NOON, until=NOON + 66, step=QUARTER)
    assert quarter.tallies["cpu"] == Tally(3, 1, 7, 13, 7)
    assert len(all_of(store, MINUTE)) == 1, "reading writes nothing"


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    one, two = (Store(tmp_path / "monitor.db") for _ in range(2))
    one.add("a", NOON, {"cpu": tally(1)})
    two.add("b", NOON, {"cpu": tally(2), "only b's": tally(3)})
    one.add("a", NOON + 60, {"cpu": tally(4)})
    assert one.sources() == ["a", "b"]
    (slot,) = all_of(one, MINUTE, "b")
    assert set(slot.tallies) == {"cpu", "only b's"}


def test_sources_that_are_gone_are_forgotten(store: Store) -> None:
    for number in range(series.MOST_SOURCES + 3):
        store.add(f"box-{number}", NOON, {"cpu": tally(1)})
    kept = store.sources()
    assert len(kept) == series.MOST_SOURCES
    assert "box-0" not in kept


def test_a_broken_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "monitor.db"
    path.write_bytes(b"this is no database at all, and long enough to be read as one" * 50)
    store = Store(path)
    store.add(ME, NOON, {"cpu": tally(1)})
    assert len(all_of(store, MINUTE)) == 1
    assert Path(f"{path}.broken").exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_disk_that_takes_nothing_costs_that_minute_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(store, ME)
    recorder.record({"cpu": 1.0}, at=NOON)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_merge", full)
        recorder.record({"cpu": 2.0}, at=NOON + 60)
    recorder.record({"cpu": 3.0}, at=NOON + 120)
    assert [slot.at for slot in all_of(store, MINUTE)] == [NOON + 60]


def test_a_minute_is_small(store: Store, tmp_path: Path) -> None:
    """A month of graphs is some megabytes: a row of 60 figures takes under 1,500 bytes."""
    names = [f"room.figure_{number}" for number in range(60)]
    store.add(
        ME,
        NOON,
        {name: tally(number * 1.37, 8e9 / (number + 1)) for number, name in enumerate(names)},
    )
    with sqlite3.connect(tmp_path / "monitor.db") as db:
        (size,) = db.execute("SELECT max(length(packed)) FROM slot").fetchone()
    assert size < 1500


def test_bins_have_gaps_where_nothing_was_seen(store: Store) -> None:
    for minute in (0, 1, 5):
        store.add(ME, NOON + 60 * minute, {"cpu": tally(minute)})
    bins = series.binned(all_of(store, MINUTE), since=NOON, until=NOON + 360, width=120)
    assert [slot.at for slot in bins] == [NOON, NOON + 120, NOON + 240]
    assert [slot.tallies["cpu"].mean if slot.tallies else None for slot in bins] == [0.5, None, 5]
    assert series.total(bins)["cpu"].count == 3
