"""Any folder of videos, with a table of labels or without one."""

import csv
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from ...models.errors import UserError
from ..media.read import VIDEO_SUFFIXES
from ..prepare.listing import Source, SourceList
from ..sample import EMOTIONS, LEVELS

LABELS = "labels.csv"
LABEL_COLUMNS = ("file", "identity", "emotion", "level", "sentence")


def read_folder(folder: Path) -> SourceList:
    """Every video below `folder`, in the order of the names, with the labels of `labels.csv` if there is one.

    Columns: file (the path inside the folder), identity, emotion, level, sentence; all but file may be missing or
    empty. A video without an identity is a person of its own. No video is opened.
    Raises UserError if `folder` is missing or holds no video, or if a label is wrong.
    """
    videos = find_files(folder, VIDEO_SUFFIXES)
    if not videos:
        raise UserError(folder, f"holds no video ({' '.join(VIDEO_SUFFIXES)})")
    stems = Counter(path.stem for path in videos)
    sources = []
    for path in videos:
        inside = path.relative_to(folder)
        # anna/001.mp4 and bob/001.mp4 are not one person.
        identity = path.stem if stems[path.stem] == 1 else inside.as_posix()
        sources.append(Source(path, inside.as_posix(), identity))
    if (folder / LABELS).is_file():
        _read_labels(folder / LABELS, {source.name: source for source in sources})
    return SourceList(folder.resolve().name, sources)


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files below `folder` with one of the suffixes, in any case, sorted; links are followed.

    Names that begin with a dot are passed over: they are the system's (`._001.mp4` of a Mac's archive).
    """
    if not folder.is_dir():
        raise UserError(folder, "no such folder")
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in suffixes)


# -- labels ----------------------------------------------------------------------------------------------------------


def _read_labels(table: Path, sources: dict[str, Source]) -> None:
    """Write the rows of the table into the sources, which are keyed by file."""
    labelled: dict[str, int] = {}  # file -> line
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            unknown = set(reader.fieldnames or ()) - set(LABEL_COLUMNS)
            if unknown or "file" not in (reader.fieldnames or ()):
                raise UserError(
                    table,
                    f"columns must be file and any of {', '.join(LABEL_COLUMNS[1:])}, with commas between",
                )
            for row in reader:
                where = f"{table} line {reader.line_num}"
                if None in row:
                    raise UserError(where, "more cells than columns", 'put a text that holds commas in "quotes"')
                cells = {name: (value or "").strip() for name, value in row.items()}
                name = cells["file"]
                if name not in sources:
                    raise UserError(where, f"no video {name!r} in this folder")
                if name in labelled:
                    raise UserError(where, f"{name!r} has a row already, line {labelled[name]}", "keep one")
                labelled[name] = reader.line_num
                _label(sources[name], cells, where)
    except UnicodeDecodeError:
        raise UserError(table, "not UTF-8", "save it as CSV UTF-8") from None


def _label(source: Source, cells: dict[str, str], where: str) -> None:
    emotion, level = cells.get("emotion") or None, cells.get("level") or None
    if emotion is not None and emotion not in EMOTIONS:
        raise UserError(where, f"emotion {emotion!r} is not one of {', '.join(EMOTIONS)}")
    if level is not None and level not in map(str, LEVELS):
        raise UserError(where, f"level {level!r} is not one of {', '.join(map(str, LEVELS))}")
    if emotion == "neutral" and level not in (None, "1"):
        raise UserError(where, f"level {level} of neutral: neutral has level 1 only", "leave it empty")
    source.identity = cells.get("identity") or source.identity
    source.emotion = emotion
    source.level = 1 if emotion == "neutral" else int(level) if level else None
    source.sentence = cells.get("sentence") or None
