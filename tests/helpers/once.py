"""What is slow to make is made once for all of pytest's workers: by whichever comes first."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

_ROOT = "TESTS_MADE_ONCE"


def begin() -> None:
    """In the process that starts the workers, which inherit its environment."""
    os.environ[_ROOT] = tempfile.mkdtemp(prefix="radrank-tests-")


def end() -> None:
    shutil.rmtree(os.environ.pop(_ROOT), ignore_errors=True)


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder of this session. make: fills it, and is called in one worker alone while the others wait."""
    folder = Path(os.environ[_ROOT]) / name
    with FileLock(f"{folder}.lock"):
        done = folder / ".made"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
