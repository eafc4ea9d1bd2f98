"""Any folder of videos, with a table of labels or without one."""

import csv
import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from ...models.errors import UserError, printable
from ..media.read import VIDEO_SUFFIXES
from ..prepare.listing import Source, SourceList
from ..sample import EMOTIONS, LEVELS

LABELS = "labels.csv"
LABEL_COLUMNS = ("file", "identity", "emotion", "level", "sentence")
DELIMITERS = (",", ";", "\t")
SYNONYMS = {  # as people and other data sets name the emotions
    "anger": "angry",
    "disgust": "disgusted",
    "fearful": "fear",
    "afraid": "fear",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprise": "surprised",
    "contemptuous": "contempt",
}


def read_folder(folder: Path) -> SourceList:
    """Every video below `folder`, in the order of the names, with the labels of `labels.csv` if there is one.

    Columns: file (the path inside the folder), identity, emotion, level, sentence; all but file may be missing or
    empty, and a column without a name is passed over. A video without an identity is a person of its own.
    No video is opened.
    Raises UserError if `folder` is missing or holds no video, or if a label is wrong.
    """
    files = find_files(folder)
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise UserError(folder, f"holds no video ({' '.join(VIDEO_SUFFIXES)})")
    stems = Counter(path.stem for path in videos)
    names = [path.relative_to(folder).as_posix() for path in videos]
    twice = {name for name, count in Counter(map(composed, names)).items() if count > 1}
    sources = []
    for path, raw in zip(videos, names, strict=True):
        name = raw if composed(raw) in twice else composed(raw)
        # anna/001.mp4 and bob/001.mp4 are not one person.
        identity = composed(path.stem) if stems[path.stem] == 1 else name
        sources.append(Source(path, name, identity))
    if (folder / LABELS).is_file():
        _read_labels(folder / LABELS, {source.name: source for source in sources})
    others = Counter(path.suffix.lower() for path in set(files) - {*videos, folder / LABELS})
    kinds = ", ".join(f"{count} {printable(suffix) or 'without a suffix'}" for suffix, count in sorted(others.items()))
    notes = [f"not videos by their names: {kinds}"] if others else []
    return SourceList(folder.resolve().name, sources, notes=notes)


def find_files(folder: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """The files below `folder` with one of the suffixes, in any case, or all of them, sorted; links are followed.

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
    return sorted(path for path in found if suffixes is None or path.suffix.lower() in suffixes)


# -- labels ----------------------------------------------------------------------------------------------------------


def _read_labels(table: Path, sources: dict[str, Source]) -> None:
    """Write the rows of the table into the sources, which are keyed by file."""
    labelled: dict[str, int] = {}  # file -> line
    columns, rows = _read_table(table)
    for number, row in rows:
        where = f"{table} line {number}"
        if len(row) > len(columns):
            raise UserError(where, "more cells than columns", 'put a text that holds commas in "quotes"')
        cells = dict(zip(columns, (cell.strip() for cell in row), strict=False))
        name = composed(cells.get("file", "").replace("\\", "/").removeprefix("./"))
        if name not in sources:
            near = difflib.get_close_matches(name, sources, n=1)
            raise UserError(where, f"no video {name!r} in this folder", f"did you mean {near[0]!r}?" if near else "")
        if name in labelled:
            raise UserError(where, f"{name!r} has a row already, line {labelled[name]}", "keep one")
        labelled[name] = number
        _label(sources[name], cells, where)


def _read_table(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The columns and the rows with their line numbers, empty ones left out.

    Spreadsheets save as UTF-8 or UTF-16, with commas, semicolons or tabs between, some with a column of row numbers.
    A cell holds no line break: a quote that is not closed in its line is a mistake, not the beginning of a long text.
    """
    data = table.read_bytes()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(table, "neither UTF-8 nor UTF-16", "save it as CSV UTF-8") from None
    lines = [(number, line) for number, line in enumerate(re.split("\r\n|\r|\n", text), start=1) if line.strip(" ,;\t")]
    head = lines[0][1] if lines else ""
    delimiter = max(DELIMITERS, key=head.count)
    parsed = []
    for number, line in lines:
        try:
            (row,) = csv.reader([line], delimiter=delimiter, strict=True)
        except csv.Error:
            problem = "a quote is opened that is not closed in this line, or text follows a closed one"
            raise UserError(f"{table} line {number}", problem, 'write "..." around the whole cell') from None
        parsed.append((number, row))
    columns = [name.strip().lower() for name in parsed[0][1]] if parsed else []
    unknown = set(columns) - set(LABEL_COLUMNS) - {""}
    named = [name for name in columns if name]
    if unknown or "file" not in columns or len(named) != len(set(named)):
        found = f" (found {', '.join(named)})" if named else ""
        raise UserError(table, f"columns must be file and any of {', '.join(LABEL_COLUMNS[1:])}, each once{found}")
    return columns, parsed[1:]


def _label(source: Source, cells: dict[str, str], where: str) -> None:
    emotion, level = cells.get("emotion", "").lower() or None, cells.get("level") or None
    emotion = SYNONYMS.get(emotion or "", emotion)
    if emotion is not None and emotion not in EMOTIONS:
        near = difflib.get_close_matches(emotion, [*EMOTIONS, *SYNONYMS], n=1)
        meant = f"did you mean {SYNONYMS.get(near[0], near[0])}?" if near else ""
        raise UserError(where, f"emotion {emotion!r} is not one of {', '.join(EMOTIONS)}", meant)
    if level is not None and re.fullmatch(r"\d+[.,]0*", level):  # as a spreadsheet writes a column with empty cells
        level = re.split("[.,]", level)[0]
    if level is not None and level not in map(str, LEVELS):
        raise UserError(where, f"level {level!r} is not one of {', '.join(map(str, LEVELS))}")
    if emotion == "neutral" and level not in (None, "1"):
        raise UserError(where, f"level {level} of neutral: neutral has level 1 only", "leave it empty")
    source.identity = cells.get("identity") or source.identity
    source.emotion = emotion
    source.level = 1 if emotion == "neutral" else int(level) if level else None
    source.sentence = cells.get("sentence") or None


def composed(name: str) -> str:
    """A file name in composed letters, as tables hold them; disks of a Mac hold e and its accent apart."""
    return unicodedata.normalize("NFC", printable(name))
