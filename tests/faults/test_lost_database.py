"""PostgreSQL dies under the whole program, as in a power cut, and comes back."""

import signal
import threading
from pathlib import Path

import pytest

from tests.faults.scene import Answer, gated, playing
from tests.postgres import Server

pytestmark = [pytest.mark.postgres, pytest.mark.full]


def test_a_database_that_dies_and_comes_back(
    tmp_path: Path, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    """T24, T7: nothing is begun and nothing is lost while it is away; the answer that was being
    written is paid once when it is back, and nobody restarts the program."""
    server: Server = request.getfixturevalue("_postgres_server")
    with playing(tmp_path / "data", DATABASE__URL=postgres_url) as scene:
        gate = threading.Event()
        scene.far.behave = gated(gate)
        answer = Answer(scene.ann)
        assert answer.begun.wait(20)
        asked = len(scene.far.asked)
        server.stop(signal.SIGQUIT)
        try:
            scene.until(scene.down, "the database is away and nobody says so")
            assert scene.get("/readyz").json()["checks"]["database"] == "cannot be written"
            assert scene.get("/livez").status_code == 200
            for refused in (
                scene.ann.send(),
                scene.ann.bearer.get("/api/billing/balance"),
                scene.ann.cookies.get("/api/auth/me"),
                scene.ann.cookies.post(
                    "/api/auth/login", json={"login": "ann", "password": "x" * 20}
                ),
            ):
                assert refused.status_code == 503, refused.text
                assert refused.headers["Retry-After"]
                assert refused.json()["error"]["code"] == "database_unavailable"
            assert len(scene.far.asked) == asked, "nothing was generated"
            # Whether the reader may still read cannot be asked; the answer itself goes on.
            kind, end = answer.end()
            assert (kind, end["error"]["code"]) == ("error", "database_unavailable"), end
            gate.set()
        finally:
            server.start()
        scene.until(scene.ready, "the database is back")
        reply_id = answer.events[0][1]["reply_id"]
        again = Answer(scene.ann, reply_id=reply_id)
        kind, end = again.end()
        assert kind == "done", end
        assert end["charged"] == "1"
        assert end["content"].startswith("one two three four five ")
        assert end["content"].endswith("ten ")
        assert scene.at_rest()["total"] == "99"
        scene.far.behave = lambda handler: handler.answer("a b c")
        assert scene.ann.send().json()["charged"] == "1"
