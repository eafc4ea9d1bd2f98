"""Media files, opened through the FFmpeg libraries that PyAV carries: no ffmpeg program is needed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av

from ...models.errors import UserError, printable

# Raised for damaged bytes, and what each of Python's own means here.
MEANT: dict[type[Exception], str] = {
    IndexError: "a packet of a stream that it does not name",
    OverflowError: "a number that is out of all bounds",
    ValueError: "parts that do not fit together",
}
DAMAGE: tuple[type[Exception], ...] = (av.error.FFmpegError, *MEANT)
INDEXED_FORMATS = ("mp4", "matroska", "avi")  # containers that lead to a key frame; in others a leap may miss it
LEAP = 2.0  # seconds that are decoded rather than leapt over
RUN_UP = 1.0  # seconds that are decoded before the first frame or sample wanted: open GOPs, overlapping audio blocks
RESTART = 1.0  # seconds that time stamps must run backwards to be those of another recording
MAX_GAP = 60.0  # seconds without a frame or sample; beyond it the time stamps are taken to be wrong


def open_media(path: Path | str) -> Any:
    """An open PyAV container; raises UserError if the file is missing or no media."""
    if not Path(path).is_file():
        raise UserError(path, "no such file")
    try:
        # libavformat takes names in UTF-8 only; a file of another name is read through Python, and closed with the
        # last reference to it.
        name = str(path) if printable(path) == str(path) else open(path, "rb")  # noqa: SIM115
        return av.open(name, metadata_errors="replace")
    except PermissionError:
        raise UserError(path, "may not be read", "see its permissions") from None
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(path, f"not a readable media file ({reason_of(error)})") from None


def first_decodable(streams: Iterable[Any]) -> Any | None:
    """The first stream that there is a decoder for, the picture on a sound file's cover left out."""
    for stream in streams:
        cover = av.stream.Disposition.attached_pic in stream.disposition
        if stream.codec_context is not None and not cover:
            return stream
    return None


def is_indexed(container: Any) -> bool:
    return any(name in container.format.name for name in INDEXED_FORMATS)


def reason_of(error: Exception) -> str:
    """An error of PyAV in words, those of FFmpeg where it has some."""
    said = getattr(error, "strerror", None)
    return said or next((words for kind, words in MEANT.items() if isinstance(error, kind)), "no reason given")
