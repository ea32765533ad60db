"""A disk that can be full or read-only: a small one of its own, where mounting is allowed."""

import shutil
import subprocess
from pathlib import Path


class Disk:
    """The folder and its disk; `own` is False where there is none, and then nothing can be done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2g", "none", str(folder)],
            capture_output=True, check=False,
        )  # fmt: skip
        self.own = done.returncode == 0

    def fill(self) -> None:
        """Not one more page."""
        self._again(f"size={shutil.disk_usage(self.folder).used}")

    def read_only(self) -> None:
        """Nothing at all; not while a file on it is open for writing."""
        self._again("ro")

    def shrink(self, size: str) -> None:
        """Of this size from now on."""
        self._again(f"size={size}")

    def free(self) -> None:
        """As it was."""
        self._again("rw,size=2g")

    def _again(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True)

    def close(self) -> None:
        """Take it away."""
        if self.own:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
