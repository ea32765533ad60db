"""Folders, pins and the archive, on both databases."""

import pytest
from sqlmodel import Session

from chat_app.chat import conversations, folders
from chat_app.chat.conversations import NO_FOLDER, ConversationNotFound
from chat_app.chat.folders import FolderExists, FolderNotFound, FolderRow, TooManyFolders
from chat_app.chat.tables import Conversation
from chat_app.db import Database
from chat_app.errors import Invalid

ALICE, BOB = 1, 2
HOSTILE = (
    "<img src=x onerror=alert(1)>", "'; DROP TABLE folder; --", "=HYPERLINK(1)", "a\u202eb", "𝔘 ☂"
)  # fmt: skip


@pytest.fixture
def talks(database: Database) -> Database:
    """Six conversations of Alice and one of Bob."""

    def story(session: Session) -> None:
        for number in range(1, 7):
            session.add(
                Conversation(
                    id=f"con_{number}", user_id=ALICE, title=f"Talk {number}", model="m",
                    created_at=number, updated_at=number,
                )
            )  # fmt: skip
        session.add(
            Conversation(
                id="con_bob", user_id=BOB, title="Bob's", model="m", created_at=1, updated_at=1
            )
        )

    database.write(story)
    return database


def make(database: Database, name: str, *, user_id: int = ALICE) -> FolderRow:
    return database.write(
        lambda session: folders.create(session, user_id=user_id, name=name, now=5)
    )


def arrange(database: Database, id: str, *, user_id: int = ALICE, **how: object) -> None:
    database.write(
        lambda session: folders.arrange(
            session,
            user_id=user_id,
            conversation_id=id,
            now=9,
            **how,  # type: ignore[arg-type]
        )
    )


def shown(database: Database, **how: object) -> list[str]:
    with database.read() as session:
        rows, _ = conversations.list_for(session, user_id=ALICE, **how)  # type: ignore[arg-type]
    return [row.id.removeprefix("con_") for row in rows]


def test_a_conversation_is_in_the_list_that_its_place_says(talks: Database) -> None:
    """Pinned, archived and in folders; nothing changes the order by time."""
    work, trips = make(talks, "Work"), make(talks, "Trips")
    arrange(talks, "con_1", pinned=True)
    arrange(talks, "con_2", archived=True)
    arrange(talks, "con_3", folder=work.id)
    arrange(talks, "con_4", folder=trips.id, pinned=True)
    assert shown(talks) == ["6", "5", "4", "3", "2", "1"]
    assert shown(talks, archived=False) == ["6", "5", "4", "3", "1"]
    assert shown(talks, archived=True) == ["2"]
    assert shown(talks, pinned=True) == ["4", "1"]
    assert shown(talks, pinned=False, folder=NO_FOLDER, archived=False) == ["6", "5"]
    assert shown(talks, folder=trips.id) == ["4"]
    arrange(talks, "con_4", folder=NO_FOLDER)
    assert shown(talks, folder=trips.id) == []
    arrange(talks, "con_2", archived=False)
    arrange(talks, "con_1", pinned=False)
    assert shown(talks, archived=False) == ["6", "5", "4", "3", "2", "1"]
    assert shown(talks, pinned=True) == ["4"]


def test_pages_of_a_filtered_list_show_each_once(talks: Database) -> None:
    arrange(talks, "con_3", pinned=True)
    seen: list[str] = []
    cursor = None
    while True:
        with talks.read() as session:
            rows, cursor = conversations.list_for(
                session, user_id=ALICE, limit=2, cursor=cursor, pinned=False
            )
        seen += [row.id for row in rows]
        if cursor is None:
            break
    assert seen == ["con_6", "con_5", "con_4", "con_2", "con_1"]


def test_folders_are_counted_renamed_and_removed(talks: Database) -> None:
    """A folder that goes leaves its conversations where all are."""
    work = make(talks, "  Work\n things ")
    assert work.name == "Work things"
    arrange(talks, "con_1", folder=work.id)
    arrange(talks, "con_2", folder=work.id, archived=True)
    with talks.read() as session:
        assert [
            (row.name, row.conversations) for row in folders.listed(session, user_id=ALICE)
        ] == [("Work things", 1)]
    renamed = talks.write(
        lambda session: folders.rename(session, user_id=ALICE, folder_id=work.id, name="WORK")
    )
    assert (renamed.name, renamed.conversations) == ("WORK", 1)
    talks.write(lambda session: folders.remove(session, user_id=ALICE, folder_id=work.id))
    assert shown(talks, folder=NO_FOLDER) == ["6", "5", "4", "3", "2", "1"]


def test_names_are_one_line_and_one_of_a_kind(talks: Database) -> None:
    make(talks, "Straße")
    for same in ("STRASSE", " straße "):
        with pytest.raises(FolderExists):
            make(talks, same)
    make(talks, "Straße", user_id=BOB)
    for bad in ("", " \n\t", "\u202e\u200b", "x" * 61):
        with pytest.raises(Invalid):
            make(talks, bad)
    for name in HOSTILE:
        assert make(talks, name).name == name.replace("\u202e", "")


def test_what_is_anothers_does_not_exist(talks: Database) -> None:
    work, bobs = make(talks, "Work"), make(talks, "Bob's", user_id=BOB)
    for id, error in ((bobs.id, FolderNotFound), ("nothing", FolderNotFound)):
        with pytest.raises(error):
            arrange(talks, "con_1", folder=id)
        with pytest.raises(error):
            talks.write(
                lambda s, id=id: folders.rename(s, user_id=ALICE, folder_id=id, name="mine")  # type: ignore[misc]
            )
        with pytest.raises(error):
            talks.write(lambda s, id=id: folders.remove(s, user_id=ALICE, folder_id=id))  # type: ignore[misc]
    with pytest.raises(ConversationNotFound):
        arrange(talks, "con_bob", folder=work.id)
    with pytest.raises(ConversationNotFound):
        arrange(talks, "con_bob", pinned=True)


def test_there_are_so_many_folders_and_no_more(
    talks: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_FOLDERS", 2)
    make(talks, "one")
    make(talks, "two")
    with pytest.raises(TooManyFolders):
        make(talks, "three")
    make(talks, "one", user_id=BOB)
