"""Secrets are made once, for the owner alone."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from chat_app import secrets


def test_secrets_are_made_once_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    made: list[secrets.Secrets] = []
    threads = [
        threading.Thread(target=lambda: made.append(secrets.load_or_create(tmp_path / "data")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert min(len(made[0].token_key), len(made[0].pepper), len(made[0].audit_key)) == 32
    mode = stat.S_IMODE(os.stat(tmp_path / "data" / secrets.FILE).st_mode)
    assert mode == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == [secrets.FILE]


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    secrets.load_or_create(tmp_path)
    path = tmp_path / secrets.FILE
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), "00" * 31)))
    with pytest.raises(ValueError, match="shorter"):
        secrets.load_or_create(tmp_path)
