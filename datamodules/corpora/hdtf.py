"""HDTF (Zhang et al., CVPR 2021): intervals of YouTube videos, which everyone downloads for themselves.

Of its 15 text files `{RD,WDA,WRA}_{video_url,annotion_time,crop_wh,crop_ratio,resolution}.txt`, four of each group are
read; their cells are parted by spaces:

    WRA_video_url.txt       AdamKinzinger0 https://…            (without .mp4, here only)
    WRA_annotion_time.txt   AdamKinzinger0.mp4 00:05-02:55      intervals, counted from 0
    WRA_resolution.txt      AdamKinzinger0.mp4 720              height of the video that the crops were made on
    WRA_crop_wh.txt         AdamKinzinger0_0.mp4 306 480 41 480 of an interval: left, width, top, height

The order in the crop lines is the authors' own ("min_width | width | min_height | height", README of MRzzm/HDTF) and
that of its downloader (`x, out_w, y, out_h`); the second and fourth number are equal in every line, the crops being
square. `crop_ratio` is for those who make the crops anew from landmarks.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...models.errors import UserError
from ..media.read import VIDEO_SUFFIXES, MediaInfo, probe
from ..prepare.listing import Source, SourceList
from ..prepare.splits import split_identities
from ..sample import SPLITS, Rejected
from .folder import find_files

GROUPS = ("RD", "WDA", "WRA")
UNNAMED = "RD"  # of which a name is a number only: Radio24
ALIASES = {"WhipJimClyburn": "JamesClyburn"}  # one person under two names
WIDE = 16 / 9  # of YouTube's pictures; the annotation gives heights only
MAX_ASPECT_ERROR = 0.02  # 1280x714 and 1920x1072 are one picture
SPLIT_RULE = (
    "fixed: by person, in the order of the SHA-256 of all names that the annotations hold, 80 % train, 10 % val, "
    "10 % test; the Radio videos, which name nobody, are train"
)

Crop = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclass
class Video:
    """The annotations of one video."""

    group: str
    name: str
    url: str
    height: int | None = None  # pixels, of the video that the crops were made on; None if not stated
    intervals: list[tuple[int, int]] = field(default_factory=list)  # seconds
    crops: dict[int, Crop] = field(default_factory=dict)  # by the number of the interval

    @property
    def identity(self) -> str:
        """The person: the name without its running number, as nobody's name ends in one; a Radio video's own name."""
        if self.group == UNNAMED:
            return self.name
        person = self.name.rstrip("0123456789")
        return ALIASES.get(person, person)


def read_hdtf(folder: Path, *, annotations: Path | None = None, keep_silent: bool = False) -> SourceList:
    """Every annotated interval of the videos that were downloaded, in the order of the annotations.

    The videos are `NAME.mp4` or `GROUP_NAME.mp4` (or .mkv, .webm, …) anywhere below `folder`; `annotations` is the
    folder of the text files, by default sought inside it. Only headers are read. A crop is used if it fits the file
    (`fit_crop`); if it does not, or has no line, the interval is kept without a crop, and a note says so.
    Clips that were cut and cropped already (`NAME_0.mp4`, `RD_NAME_000.mp4`) are for `read_folder`.
    Rejected, each by name: videos that are not downloaded, have no interval, cannot be read or, unless `keep_silent`,
    hold no sound, intervals beyond their end, files that the annotations do not know.
    Raises UserError if the annotations are missing or damaged, or if no video is there.
    """
    videos = read_annotations(annotations or _find_annotations(folder))
    files, rejected = _match(folder, videos)
    sources: list[Source] = []
    notes: list[str] = []
    for video in videos:
        for found in _intervals(video, files.get(video.name), keep_silent):
            if isinstance(found, Rejected):
                rejected.append(found)
                continue
            source, note = found
            sources.append(source)
            if note:
                notes.append(f"{source.name}: {note}")
    splits = split_identities({video.identity for video in videos if video.group != UNNAMED})
    for source in sources:
        source.split = splits.get(source.identity, "train")
    if {source.split for source in sources} == set(SPLITS):
        return SourceList("hdtf", sources, rejected, SPLIT_RULE, notes)
    for source in sources:  # too few of the people for the fixed split
        source.split = None
    return SourceList("hdtf", sources, rejected, notes=notes)


def _intervals(video: Video, path: Path | None, keep_silent: bool) -> Iterator[tuple[Source, str] | Rejected]:
    """The sources of one video, each with a note ("" if it is as annotated)."""
    label = f"{video.group}/{video.name}"
    if not video.intervals:
        yield Rejected(label, f"no interval in {video.group}_annotion_time.txt", "not_annotated")
        return
    if path is None:
        yield Rejected(label, f"not downloaded: {video.url}", "absent")
        return
    try:
        info = probe(path)
    except UserError as error:
        yield Rejected(label, str(error), "unreadable")
        return
    if not info.has_video or not (info.has_audio or keep_silent):
        lacking, code = ("sound", "no_audio") if info.has_video else ("picture", "unreadable")
        yield Rejected(label, f"{path}: holds no {lacking}", code)
        return
    end = info.duration or float("inf")
    for number, (start, stop) in enumerate(video.intervals):
        name = f"{label}_{number}.mp4"  # the data set's own name of the clip
        if start >= end:
            yield Rejected(name, f"begins at {start} s, but {path} ends at {end:.0f} s", "beyond_end")
            continue
        crop, note = fit_crop(video.crops.get(number), video.height, info)
        note = note if info.has_audio else "; ".join(filter(None, (note, "no sound: for the face stage only")))
        yield Source(path, name, video.identity, start=float(start), stop=min(float(stop), end), crop=crop), note


def fit_crop(crop: Crop | None, height: int | None, info: MediaInfo) -> tuple[Crop | None, str]:
    """The crop for a file, from one that was made on a picture `height` pixels high, and a note on any change.

    If the file has that height, the crop is kept. If it has another height but YouTube's 16:9, the crop is scaled; the
    annotated pictures were 16:9 too, as far as their crops tell. Else, or if it leaves either picture, it is dropped.
    """
    if crop is None:
        return None, "no crop: the annotations have no line"
    left, top, width, size = crop
    if not height or top + size > height:
        return None, f"crop dropped: it leaves the {height or 0} lines that the annotations state"
    if info.height != height and abs(info.width / info.height / WIDE - 1) > MAX_ASPECT_ERROR:
        stated = f"{info.width}x{info.height} is not 16:9, so that it cannot be scaled from {height} lines"
        return None, f"crop dropped: {stated}"
    scale = info.height / height
    left, top, width, size = (int(value * scale) for value in (left, top, width, size))  # down: stays inside
    if left + width > info.width:
        return None, f"crop dropped: it leaves the {info.width}x{info.height} picture"
    note = f"crop scaled from {height} to {info.height} lines" if info.height != height else ""
    return (left, top, width, size), note


# -- files -----------------------------------------------------------------------------------------------------------


def _match(folder: Path, videos: list[Video]) -> tuple[dict[str, Path], list[Rejected]]:
    """Name -> file of the videos that are there, and the files that are none of them."""
    names = {key: video.name for video in videos for key in (video.name, f"{video.group}_{video.name}")}
    files: dict[str, Path] = {}
    rejected, cut = [], False
    for path in find_files(folder, VIDEO_SUFFIXES):
        inside, name = path.relative_to(folder).as_posix(), names.get(path.stem)
        if name is not None and name not in files:
            files[name] = path
        elif name is not None:
            rejected.append(
                Rejected(inside, f"the same video as {files[name].relative_to(folder).as_posix()}", "duplicate")
            )
        elif re.sub(r"_\d+$", "", path.stem) in names:
            rejected.append(Rejected(inside, "a clip that was cut already", "cut_already"))
            cut = True
        else:
            rejected.append(Rejected(inside, "not in the annotations", "not_listed"))
    if not files and cut:
        raise UserError(folder, "holds clips that were cut already, not HDTF's videos", "prepare it as a plain folder")
    if not files:
        example = f"{videos[0].name}.mp4 from {videos[0].url}"
        raise UserError(folder, f"holds none of HDTF's {len(videos)} videos", f"download them by name ({example})")
    return files, rejected


def _find_annotations(folder: Path) -> Path:
    found = find_files(folder, (".txt",))
    for path in found:
        if path.name == f"{GROUPS[0]}_annotion_time.txt":
            return path.parent
    raise UserError(folder, f"holds no {GROUPS[0]}_annotion_time.txt", "get HDTF_dataset from github.com/MRzzm/HDTF")


# -- annotations -----------------------------------------------------------------------------------------------------


def read_annotations(folder: Path) -> list[Video]:
    """All videos, in the order of the groups and of `video_url`; raises UserError that names file and line."""
    videos: dict[str, Video] = {}
    for group in GROUPS:
        for name, (url,), where in _lines(folder, group, "video_url", 1):
            if name in videos:
                raise UserError(where, f"{name} is there twice", "keep one line")
            videos[name] = Video(group, name, url)
        for name, (height,), where in _lines(folder, group, "resolution", 1):
            _known(videos, name, where).height = _numbers([height], where)[0]
        for name, cells, where in _lines(folder, group, "annotion_time"):
            _known(videos, name, where).intervals = [_interval(cell, where) for cell in cells]
        for clip, cells, where in _lines(folder, group, "crop_wh", 4):
            name, _, index = clip.rpartition("_")
            number, left, width, top, size = _numbers([index, *cells], where)
            _known(videos, name, where).crops[number] = (left, top, width, size)
    return list(videos.values())


def _lines(folder: Path, group: str, kind: str, count: int | None = None) -> Iterator[tuple[str, list[str], str]]:
    """(name, cells, where) of each line that is not empty; with `count`, so many cells."""
    path = folder / f"{group}_{kind}.txt"
    if not path.is_file():
        raise UserError(path, "no such file", "get all 15 of HDTF_dataset from github.com/MRzzm/HDTF")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()  # one begins with a byte order mark
    for number, line in enumerate(lines, start=1):
        name, *cells = line.split() or [""]
        where = f"{path} line {number}"
        if name and count is not None and len(cells) != count:
            raise UserError(where, f"{len(cells)} cells after the name, not {count}", "get the file anew")
        if name:
            yield name.removesuffix(".mp4"), cells, where


def _known(videos: dict[str, Video], name: str, where: str) -> Video:
    if name not in videos:
        raise UserError(where, f"{name} is not in video_url.txt", "get the file anew")
    return videos[name]


def _numbers(cells: list[str], where: str) -> list[int]:
    if not all(cell.isdecimal() for cell in cells):
        raise UserError(where, f"{' '.join(cells)!r} must be whole numbers", "get the file anew")
    return [int(cell) for cell in cells]


def _interval(cell: str, where: str) -> tuple[int, int]:
    """Seconds of mm:ss-mm:ss."""
    match = re.fullmatch(r"(\d+):(\d\d)-(\d+):(\d\d)", cell)
    start, stop = (int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])) if match else (0, 0)
    if stop <= start:
        raise UserError(where, f"{cell!r} is no interval such as 00:05-01:10", "correct it")
    return start, stop
