"""Write the files of a Hugging Face Space into an empty folder.

    python deploy/space/assemble.py FOLDER

Then commit that folder to the Space. Only what git keeps is taken.
"""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TAKEN = ("chat_app", "ui", "launch.py", "settings.toml", "requirements.txt")
OWN = ("README.md", "app.py")


def assemble(folder: Path) -> list[Path]:
    """Copy the files; returns them. The folder is made, and must be empty."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(one.name != ".git" for one in folder.iterdir()):
        raise SystemExit(f"{folder} is not empty. Name another folder.")
    made = [_copy(ROOT / name, folder / name) for name in kept()]
    return made + [_copy(HERE / name, folder / name) for name in OWN]


def kept() -> list[str]:
    """What belongs to the Space; in an unpacked archive everything but what Python made itself."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *TAKEN],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    found = []
    for name in TAKEN:
        for path in [ROOT / name, *(ROOT / name).rglob("*")]:
            if path.is_file() and "__pycache__" not in path.parts:
                found.append(str(path.relative_to(ROOT)))
    return found


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    count = len(assemble(Path(sys.argv[1])))
    sys.stdout.write(f"{count} files.\n")
