"""REST of the backups: made, tried, downloaded with a fresh code, and never with the keys."""

import io
import zipfile
from pathlib import Path

import pytest
from pyotp import TOTP
from sqlmodel import col, update

from chat_app.accounts.tables import SignInSession
from chat_app.backups import archive, make
from chat_app.backups.make import Place
from chat_app.flows import backup
from tests.api.conftest import PASSWORD, Person, Server


@pytest.fixture
def root(server: Server) -> Person:
    return server.person(admin=True)


def test_made_listed_tried_downloaded(server: Server, root: Person, tmp_path: Path) -> None:
    made = root.client.post("/api/admin/backups")
    assert made.status_code == 201, made.text
    shown = root.client.get("/api/admin/backups").json()
    assert shown["items"][0] == made.json()
    assert made.json()["keys"] is False
    assert made.json()["rows"] > 0
    tried = root.client.post("/api/admin/backups/drill").json()
    assert tried["ok"] is True
    assert tried["backup"] == made.json()["id"]
    assert root.client.get("/api/admin/backups").json()["last_drill"] == tried
    path = f"/api/admin/backups/{made.json()['id']}/file"
    file = root.client.get(path)
    assert file.headers["content-disposition"].startswith("attachment")
    assert zipfile.ZipFile(io.BytesIO(file.content)).testzip() is None
    copy = tmp_path / "copy.zip"
    copy.write_bytes(file.content)
    assert archive.check(copy).counts["event_log"] >= 1
    taken = backup.last_event(server.app.db, backup.TAKEN)
    assert taken is not None
    assert taken.actor == f"user:{root.id}"


def test_a_download_asks_for_a_fresh_code(server: Server, root: Person) -> None:
    """Everybody's data leaves with it, so a stolen sign-in alone is not enough."""
    made = root.client.post("/api/admin/backups").json()
    path = f"/api/admin/backups/{made['id']}/file"
    secret = root.client.post("/api/auth/totp/enroll", json={"password": PASSWORD}).json()["secret"]
    root.client.post("/api/auth/totp/confirm", json={"code": TOTP(secret).now()})
    assert root.client.get(path).status_code == 200, "the code was shown just now"
    stale = update(SignInSession).where(col(SignInSession.user_id) == int(root.id))
    server.app.db.write(lambda session: session.execute(stale.values(second_factor_at=None)))
    refused = root.client.get(path)
    assert refused.status_code == 403, refused.text
    assert refused.json()["error"]["code"] == "second_factor_required"


def test_the_keys_never_leave_by_the_network(server: Server, root: Person) -> None:
    place = Place.of(server.app.settings)
    now = server.app.clock.micros()
    kept = make.keep(server.app.db, place, kind="asked", now=now, with_secrets=True)
    shown = root.client.get("/api/admin/backups").json()["items"]
    assert [one["keys"] for one in shown if one["id"] == kept.id] == [True]
    refused = root.client.get(f"/api/admin/backups/{kept.id}/file")
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "backup_holds_keys"
