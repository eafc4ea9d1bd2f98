"""Files that are there as a whole or not at all: they are written under another name and renamed."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

PARTIAL = ".partial"  # ending of a file that is being written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a disk answers that takes no more
# And one that may not be written or is not what it was.
OF_THE_DISK: tuple[int, ...] = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.EIO)
OF_THE_DISK += (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ESTALE)
MAX_NAME = 255  # bytes of a file name, of all common file systems


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the disk within get the name of what was being written, so that they can be told in one line."""
    try:
        yield
    except Exception as error:
        # safetensors has no error of its own for a full disk.
        number = re.search(r"os error (\d+)", str(error)) if type(error).__name__ == "SafetensorError" else None
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        if isinstance(error, OSError) and error.errno in OF_THE_DISK and error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise


@contextmanager
def written_aside(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yields the file to write, which takes the name `path` in the end. If writing fails, it is deleted.

    `partial` is its name until then. If several processes may write the same file at once, each needs its own name.
    """
    partial = partial or partial_of(path)
    try:
        with writing(path):
            yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_of(path: Path) -> Path:
    """The name of a file while it is written: its own and an ending, or if that is too long, a digest of it.

    Raises UserError if the name itself is longer than file systems bear.
    """
    length = len(os.fsencode(path.name))
    if length > MAX_NAME:
        raise UserError(path, f"its name has {length} bytes, file systems take {MAX_NAME}", "give it a shorter one")
    return path.with_name(fitting(path.name, PARTIAL))


def fitting(name: str, ending: str) -> str:
    """A name with an ending; if both are too long for a file system, a digest of the name with it."""
    if len(os.fsencode(name + ending)) <= MAX_NAME:
        return name + ending
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + ending


def write_json(path: Path, content: Any, *, indent: int | None = 1, partial: Path | None = None) -> None:
    """Write JSON aside and rename it; without `indent` on one line, as short as it gets."""
    separators = (",", ":") if indent is None else None
    with written_aside(path, partial) as file:
        file.write_text(json.dumps(content, indent=indent, separators=separators) + "\n", encoding="utf-8")
