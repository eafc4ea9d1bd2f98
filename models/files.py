"""Files that are there as a whole or not at all: they are written under another name and renamed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"  # ending of a file that is being written


@contextmanager
def written_aside(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yields the file to write, which takes the name `path` in the end. If writing fails, it is deleted.

    `partial` is its name until then. If several processes may write the same file at once, each needs its own name.
    """
    partial = partial or path.with_name(path.name + PARTIAL)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any, *, indent: int | None = 1, partial: Path | None = None) -> None:
    """Write JSON aside and rename it; without `indent` on one line, as short as it gets."""
    separators = (",", ":") if indent is None else None
    with written_aside(path, partial) as file:
        file.write_text(json.dumps(content, indent=indent, separators=separators) + "\n", encoding="utf-8")
