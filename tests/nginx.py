"""A real nginx for tests, with a configuration as it is shipped."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests import servers

SHIPPED = servers.ROOT / "deploy" / "nginx"
PROGRAM = shutil.which("nginx") or "/usr/sbin/nginx"


def free_ports(number: int) -> list[int]:
    """Ports that nobody uses at the moment."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def certificate(folder: Path) -> None:
    """A certificate for localhost that nobody else signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def adapted(
    name: str, folder: Path, *, tls: int, plain: int, apps: list[int], head_seconds: int
) -> str:
    """The shipped configuration, on other ports and with another patience for headers."""
    text = (SHIPPED / name).read_text(encoding="utf-8")
    changes = [
        ("listen [::]:80;", "", 1),
        ("listen [::]:443 ssl http2;", "", 1),
        ("listen 80;", f"listen 127.0.0.1:{plain};", 1),
        ("listen 443 ssl", f"listen 127.0.0.1:{tls} ssl", 1),
        ("/etc/nginx/tls/", f"{folder}/", 2),
        ("chat.example.org", "localhost", 2),
        ("proxy_set_header Host $host;", "proxy_set_header Host $http_host;", 1),
        ("client_header_timeout 10s;", f"client_header_timeout {head_seconds}s;", 2),
    ]
    for name_of, port in zip(("app:", "app2:", "app3:"), apps, strict=False):
        changes.append((f"server {name_of}7860", f"server 127.0.0.1:{port}", 2))
    for old, new, times in changes:
        assert text.count(old) == times, old
        text = text.replace(old, new)
    return text


@contextmanager
def running(
    folder: Path, name: str, *, tls: int, plain: int, apps: list[int], head_seconds: int = 10
) -> Iterator[None]:
    """nginx with one of the shipped configurations; skips without nginx, and fails in CI."""
    if not Path(PROGRAM).exists():
        reason = "there is no nginx here; install the package nginx-light to run these"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder.chmod(0o755)
    certificate(folder)
    (folder / "chat.conf").write_text(
        adapted(name, folder, tls=tls, plain=plain, apps=apps, head_seconds=head_seconds)
    )
    (folder / "nginx.conf").write_text(
        ("user root;\n" if os.geteuid() == 0 else "")  # the folder is for its owner alone
        + f"pid {folder}/pid;\nerror_log {folder}/error.log;\n"
        + "events {\nworker_connections 2048;\n}\nhttp {\n"
        f"access_log off;\ninclude {folder}/chat.conf;\n"
        + "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + "}\n"
    )
    command = [PROGRAM, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    try:
        yield
    finally:
        process.terminate()
        process.wait()
