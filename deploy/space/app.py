"""The start of a Hugging Face Space: a demonstration that begins anew every day.

The server is a child process on a data directory of its own. While it serves, the next made-up
year is written beside it with low priority; then the one is ended in order and the other started.
`SPACE_RESET_HOURS` says how often, 0 never. The Space's disk is lost at each restart anyway.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
RESET_HOURS = float(os.environ.get("SPACE_RESET_HOURS", "24"))
FILL = "from chat_app import settings; from chat_app.flows import demo; demo.fill(settings.load())"
END_SECONDS = 90


def environment(data_dir: Path) -> dict[str, str]:
    """The server's environment: what the Space sets wins over what is usual here."""
    usual = {
        "CHAT_APP_SERVER__HOST": "0.0.0.0",  # noqa: S104 - a container's port
        "CHAT_APP_SERVER__PORT": "7860",
        "CHAT_APP_LOGGING__FORMAT": "json",
        "CHAT_APP_BACKUPS__EVERY_HOURS": "0",
        "CHAT_APP_BACKUPS__DRILL_DAYS": "0",
        "CHAT_APP_PAYMENTS__PROVIDER": "offline",
    }
    if host := os.environ.get("SPACE_HOST"):
        usual["CHAT_APP_SERVER__PUBLIC_URL"] = f"https://{host}"
    return {**usual, **os.environ, "CHAT_APP_DATA_DIR": str(data_dir)}


def start(data_dir: Path) -> "subprocess.Popen[bytes]":
    """The server on this data directory; an empty one is filled before it listens."""
    return subprocess.Popen(
        [sys.executable, "launch.py", "--demo"], cwd=HERE, env=environment(data_dir)
    )


def fill(data_dir: Path) -> bool:
    """Write a made-up year behind everybody else; False when that failed."""
    done = subprocess.run(
        ["nice", "-n", "19", sys.executable, "-c", FILL],
        cwd=HERE, env=environment(data_dir), check=False,
    )  # fmt: skip
    return done.returncode == 0


def end(server: "subprocess.Popen[bytes]") -> None:
    """Let running answers finish."""
    server.terminate()
    try:
        server.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def main() -> int:
    """Serve, and begin anew when it is time; returns when the server ends by itself."""
    root = Path(tempfile.mkdtemp(prefix="demo-"))
    generation = 0
    server = start(root / str(generation))

    def leave(_number: int, _frame: FrameType | None) -> None:
        end(server)
        shutil.rmtree(root, ignore_errors=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    since = time.monotonic()
    while server.poll() is None:
        time.sleep(1)
        if not RESET_HOURS or time.monotonic() - since < RESET_HOURS * 3600:
            continue
        since = time.monotonic()
        following = root / str(generation + 1)
        if not fill(following):
            shutil.rmtree(following, ignore_errors=True)
            continue  # what is there goes on
        end(server)
        server = start(following)
        shutil.rmtree(root / str(generation), ignore_errors=True)
        generation += 1
    return server.returncode


if __name__ == "__main__":
    sys.exit(main())
