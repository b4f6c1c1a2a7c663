"""Small files: written whole or not at all, and read again when they have changed."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

__all__ = ["Stamp", "replace_file", "stamp_of", "write_new_private"]

Stamp = tuple[int, int, int]


def stamp_of(about: os.stat_result) -> Stamp:
    """Return what is another whenever a file is, or who may read it."""
    return about.st_ino, about.st_ctime_ns, about.st_size


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Put `content` in the place of whatever is there, in one step, with this mode."""
    beside = _write_beside(path, content, mode)
    beside.replace(path)
    _sync_folder(path.parent)


def write_new_private(path: Path, content: bytes) -> bool:
    """Make a file that only its owner reads. Returns False where it is there already, and leaves it alone."""
    beside = _write_beside(path, content, 0o600)
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive a loss of power."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_beside(path: Path, content: bytes, mode: int) -> Path:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    return beside
