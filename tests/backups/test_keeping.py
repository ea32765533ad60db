"""Which backups stay, and who may work in the folder."""

from pathlib import Path

import pytest

from chat_app.backups import archive, keeping
from chat_app.backups.archive import Manifest
from chat_app.backups.keeping import Kept
from chat_app.clock import MICROS_PER_SECOND

DAY = 86_400 * MICROS_PER_SECOND
NOON = 1_767_268_800 * MICROS_PER_SECOND  # Thursday, 1 January 2026, 12:00
MANIFEST = Manifest(NOON, "1", "scheduled", "sqlite", "1", "", {}, {}, secrets=False)


def kept(days: float, kind: str = "scheduled") -> Kept:
    at = NOON + int(days * DAY)
    return Kept(f"{kind}{days}", Path("x"), kind, at, 1, MANIFEST)


def stay(items: list[Kept], *, daily: int, weekly: int) -> list[str]:
    newest_first = sorted(items, key=lambda one: one.made_at, reverse=True)
    gone = keeping.superfluous(newest_first, daily=daily, weekly=weekly)
    return [one.id for one in newest_first if one not in gone]


def test_the_newest_of_each_day_and_week_stays() -> None:
    items = [kept(days) for days in (0, 0.1, 0.2, 1, 2, 5, 12, 13, 20)]
    assert stay(items, daily=2, weekly=0) == ["scheduled20", "scheduled13"]
    # Weeks begin on Monday: days 0 to 3 are of one week, 4 to 10 of the next.
    assert stay(items, daily=1, weekly=4) == [
        "scheduled20", "scheduled13", "scheduled5", "scheduled2"
    ]  # fmt: skip


def test_a_pause_removes_nothing() -> None:
    """A server that stood still for a year still has its last backup."""
    assert stay([kept(-365)], daily=1, weekly=0) == ["scheduled-365"]


def test_what_was_made_by_hand_or_before_a_migration_does_not_push_out_the_regular() -> None:
    items = [kept(0)] + [kept(n, "asked") for n in range(1, 9)]
    items += [kept(n, "migration") for n in range(1, 6)]
    left = stay(items, daily=1, weekly=0)
    assert "scheduled0" in left
    assert len([id for id in left if id.startswith("asked")]) == keeping.KEPT_ASKED
    assert len([id for id in left if id.startswith("migration")]) == keeping.KEPT_MIGRATIONS


def test_names_say_kind_and_time_to_the_microsecond(tmp_path: Path) -> None:
    name = keeping.name("asked", NOON + 7)
    (tmp_path / name).write_bytes(b"not a zip")
    (tmp_path / "chat-other.zip").write_bytes(b"")
    [found] = keeping.listed(tmp_path)
    assert (found.kind, found.made_at, found.manifest) == ("asked", NOON + 7, None)
    with pytest.raises(keeping.NoBackup):
        keeping.get(tmp_path, "../chat-other")


def test_one_maker_at_a_time_and_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / f".half{archive.PART}").write_bytes(b"half")
    with keeping.working(tmp_path):
        assert not list(tmp_path.glob(f".*{archive.PART}"))
        with pytest.raises(keeping.BackupRuns), keeping.working(tmp_path):
            pass
    with keeping.working(tmp_path):
        pass


def test_servers_share_a_directory_and_a_restore_wants_it_alone(tmp_path: Path) -> None:
    with (
        keeping.serving(tmp_path),
        keeping.serving(tmp_path),
        pytest.raises(keeping.StillServing),
        keeping.alone(tmp_path),
    ):
        pass
    with keeping.alone(tmp_path), pytest.raises(keeping.StillServing), keeping.serving(tmp_path):
        pass


def test_an_archive_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "one.zip"
    path.write_bytes(b"precious")
    with pytest.raises(archive.ArchiveExists), archive.writing(path):
        pass
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\b"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    """Who can write a backup must not be able to write elsewhere with it."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    path = tmp_path / "evil.zip"
    with pytest.raises(archive.DamagedArchive), archive.writing(path) as writer:
        _fill(writer, name, source)
    assert not path.exists()


def _fill(writer: archive.Writer, name: str, source: Path) -> None:
    writer.add(name, source)
    manifest = Manifest(
        NOON, "1", "asked", "sqlite", "1", "", {}, {}, secrets=False, entries=tuple(writer.entries)
    )
    writer.finish(archive.seal(manifest, b"k" * 32))
