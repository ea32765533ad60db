"""Nobody's keys lie in the repository: known forms of tokens, private keys, passwords in addresses.

Ruff's S rules hold the code against what bandit knows, at each lint.
"""

from pathlib import Path

import pytest
from detect_secrets import SecretsCollection
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.settings import transient_settings

from tests.house import tree

# They guess by entropy or by a word beside it, and everything here has keys, hashes and passwords.
GUESSING = {
    "Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector", "IPPublicDetector",
}  # fmt: skip
# What was looked at: each is made up, and what the line or the test is about.
REVIEWED = {
    ("chat_app/flows/copying.py", "Basic Auth Credentials"),  # how an address looks
    ("tests/llm/test_remote.py", "Basic Auth Credentials"),  # addresses that are refused
    ("tests/notify/test_wire.py", "Basic Auth Credentials"),  # addresses that are refused
    ("tests/test_logs.py", "Basic Auth Credentials"),  # what is struck out
}


def found_in(paths: list[Path], folder: Path) -> set[tuple[str, str]]:
    """The files with something that looks like a secret, and what it looks like."""
    names = {one.__name__ for one in get_mapping_from_secret_type_to_class().values()}
    plugins = [{"name": name} for name in sorted(names - GUESSING)]
    seen = SecretsCollection()
    with transient_settings({"plugins_used": plugins}):
        for path in paths:
            seen.scan_file(str(path))
    return {(str(Path(name).relative_to(folder)), secret.type) for name, secret in seen}


def is_settings(path: Path) -> bool:
    """What people put real keys into: settings, manifests and scripts, not code and prose."""
    return path.suffix not in {".py", ".md", ".css", ".js", ".svg"}


def test_no_secret_is_kept_beside_the_code() -> None:
    paths = [path for path in tree.kept_files() if is_settings(path)]
    assert found_in(paths, tree.ROOT) == set()


@pytest.mark.full
def test_no_secret_is_kept_anywhere() -> None:
    assert found_in(tree.kept_files(), tree.ROOT) == REVIEWED


def test_a_planted_secret_is_found(tmp_path: Path) -> None:
    """The scan that never fails proves nothing."""
    planted = {
        "aws.env": ("AWS Access Key", "key = AKIA" + "IOSFODNN7" + "EXAMPLQ"),
        "stripe.toml": ("Stripe Access Key", 'key = "sk_live_' + "a1B2" * 6 + '"'),
        "host.pem": ("Private Key", "-----BEGIN " + "PRIVATE KEY-----"),
    }
    for name, (_, text) in planted.items():
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    found = found_in([tmp_path / name for name in planted], tmp_path)
    assert found == {(name, kind) for name, (kind, _) in planted.items()}
