"""MEAD (Wang et al., ECCV 2020) as it lies on people's disks: actors who speak with eight emotions at three levels.

A take is one sentence, filmed from up to seven views at once; its sound is recorded once, in a file of its own.
Two layouts are read, also mixed, at any depth below the folder:

    M003/video/front/angry/level_1/001.mp4 with M003/audio/angry/level_1/001.m4a
    M003_ang_1_001.mp4, M003_level_1_angry_001.mp4, M003#angry#level_1#001.mp4, with sound of the same name or none

In the first, `video` may have another name (archives in two parts unpack as `1` and `2`) or be missing, and there may
be no view: that is front. In the second, a view may stand after the actor or before the number (`M003_top_ang_1_001`).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ...models.errors import UserError
from ..media.read import VIDEO_SUFFIXES, probe
from ..prepare.listing import Source, SourceList
from ..prepare.splits import split_identities
from ..sample import EMOTIONS, LEVELS, Rejected
from .folder import find_files

VIEWS = ("front", "down", "top", "left_30", "left_60", "right_30", "right_60")
SOUND_SUFFIXES = (".m4a", ".wav", ".flac", ".aac", ".mp3")
LAYOUTS = "M003/video/front/angry/level_1/001.mp4 (with M003/audio/angry/level_1/001.m4a) or M003_ang_1_001.mp4"

# The last sentences of each actor, emotion and level are held out: (test, and before those val).
OFFICIAL_NEUTRAL = (10, 3)
OFFICIAL_OTHERS = (6, 2)
IDENTITY_TEST = ("M003", "M030", "W009", "W015")  # as EAT and others since test
IDENTITY_VAL = ("M029", "M042", "W018", "W038")  # ours: two men and two women of whom all takes are there
SPLIT_RULES = {
    "official": "official: of each actor, emotion and level the last 6 sentences there are (neutral: 10) are test, "
    "the 2 before them (neutral: 3) val; people are in all splits",
    "identity": f"identity: test is {' '.join(IDENTITY_TEST)}, val is {' '.join(IDENTITY_VAL)}",
    "random": "random: by actor, in the order of the names' SHA-256, 70 % train, 15 % val, 15 % test",
}

DEFAULT_SPLIT = "identity"  # of people, as all else here: faces, statistics and judges are of people

_EMOTION_NAMES = {name: name for name in EMOTIONS} | {name[:3]: name for name in EMOTIONS}
_ACTOR = re.compile(r"[MW]\d{3}")
_VIEW, _EMOTION = "|".join(VIEWS), "|".join(_EMOTION_NAMES)
_FLAT = re.compile(
    rf"(?P<actor>[MW]\d{{3}})_(?:(?P<view>{_VIEW})_)?"
    rf"(?:level_(?P<level>\d)_(?P<emotion>{_EMOTION})|(?P<emotion_>{_EMOTION})_(?:level_)?(?P<level_>\d))"
    rf"_(?:(?P<view_>{_VIEW})_)?(?P<number>\d{{1,3}})"
)


@dataclass(frozen=True, order=True)
class Take:
    """The facts in the name of a file."""

    actor: str
    view: str
    emotion: str
    level: int
    number: int

    @property
    def group(self) -> tuple[str, str, int]:
        """Actor, emotion, level: the takes that are numbered together."""
        return self.actor, self.emotion, self.level


def parse_take(path: PurePath) -> Take | None:
    """The take that a path names, relative to the data set and with or without a suffix; None if it names none.

    A view that is not in the name of the file is that of the nearest folder with a view's name, and otherwise front.
    """
    folders = path.parts[:-1]
    if match := _FLAT.fullmatch(path.stem.replace("#", "_")):
        view = match["view"] or match["view_"] or next((part for part in reversed(folders) if part in VIEWS), "front")
        emotion, level = match["emotion"] or match["emotion_"], match["level"] or match["level_"]
        return _checked(match["actor"], view, _EMOTION_NAMES[emotion], int(level), int(match["number"]))
    *above, emotion, level = folders if len(folders) >= 3 else ("", "", "")
    actor = next((part for part in reversed(above) if _ACTOR.fullmatch(part)), None)
    named = emotion in _EMOTION_NAMES and re.fullmatch(r"level_\d", level) and re.fullmatch(r"\d{1,3}", path.stem)
    if actor is None or not named or above[-1] not in (*VIEWS, "video", actor):
        return None
    view = above[-1] if above[-1] in VIEWS else "front"
    return _checked(actor, view, _EMOTION_NAMES[emotion], int(level[-1]), int(path.stem))


def _checked(actor: str, view: str, emotion: str, level: int, number: int) -> Take | None:
    """The take, or None if no such take can exist: neutral has level 1 only."""
    if level not in LEVELS or (emotion == "neutral" and level != 1):
        return None
    return Take(actor, view, emotion, level, number)


# -- the data set ----------------------------------------------------------------------------------------------------


def read_mead(
    folder: Path, *, views: Sequence[str] = ("front",), split: str = DEFAULT_SPLIT, keep_silent: bool = False
) -> SourceList:
    """The takes of `folder` from the given views, in the order of actor, view, number, emotion and level.

    So the emotions of a person lie side by side, and a shard holds several (what `data.cross_clip` is for).
    `split` is one of `SPLIT_RULES`; what it says does not depend on `views`. Takes of other views are counted in the
    notes; files that name no take, that name one again, and takes without sound are rejected, each by name;
    `keep_silent` keeps the latter, and a note counts them. No video is decoded; the header of one is read only if there
    is no sound file, to see whether it holds sound itself.
    Raises UserError if the folder holds no take, none that is kept, or none of one of the views.
    """
    _check(views, split)
    takes, sounds, rejected = _find_takes(folder)
    there = {take.view for take in takes}
    if not takes:
        raise UserError(folder, "holds no take of MEAD", f"unpack its archives so that files are named {LAYOUTS}")
    if lacking := [view for view in views if view not in there]:
        held = ", ".join(view for view in VIEWS if view in there)
        raise UserError(folder, f"holds no take from view {', '.join(lacking)}", f"choose from {held}")
    splits, notes = _split(takes, split)
    if others := Counter(take.view for take in takes if take.view not in views):
        notes.append(f"takes of views not asked for: {', '.join(f'{others[v]} {v}' for v in VIEWS if others[v])}")
    sources, silent = [], []
    for take, path in sorted(takes.items(), key=lambda item: _place(item[0])):
        if take.view not in views:
            continue
        # The seven cameras share one sound; a copy of one's own view is nearer to its video.
        sound = sounds.get(take) or sounds.get(replace(take, view="front"))
        source = Source(path, path.relative_to(folder).as_posix(), take.actor, audio=sound, split=splits[take])
        source.emotion, source.level, source.view = take.emotion, take.level, take.view
        if sound is None and not _holds_sound(path):
            silent.append(_without_sound(take, source.name))
            if not keep_silent:
                continue
        sources.append(source)
    if silent and keep_silent:
        notes.append(
            f"takes without sound, for the face stage only: {len(silent)} ({silent[0].source}: {silent[0].reason})"
        )
    else:
        rejected += silent
    if not sources:
        raise UserError(folder, "no take has sound", "unpack audio.tar of each actor beside its videos")
    rejected += _absent_actors(takes, views)
    return SourceList("mead", sources, rejected, SPLIT_RULES[split], notes)


def _without_sound(take: Take, name: str) -> Rejected:
    where = f"{take.actor}/audio/{take.emotion}/level_{take.level}/{take.number:03d}.m4a"
    return Rejected(name, f"no sound: no file such as {where}, and none in the video", "no_audio")


def _place(take: Take) -> tuple[str, str, int, str, int]:
    return take.actor, take.view, take.number, take.emotion, take.level


def _check(views: Sequence[str], split: str) -> None:
    if isinstance(views, str) or not views or set(views) - set(VIEWS):
        raise UserError(f"views {views!r}", f"must be one or more of {', '.join(VIEWS)}")
    if split not in SPLIT_RULES:
        raise UserError(f"split {split!r}", f"must be one of {', '.join(SPLIT_RULES)}")


def _find_takes(folder: Path) -> tuple[dict[Take, Path], dict[Take, Path], list[Rejected]]:
    """Every take of every view with its video; those with a sound file; the videos that are none or a second one."""
    root = PurePath(folder.resolve().name)  # the folder may itself be that of an actor
    videos: dict[Take, Path] = {}
    sounds: dict[Take, Path] = {}
    rejected = []
    for path in find_files(folder, VIDEO_SUFFIXES + SOUND_SUFFIXES):
        inside = path.relative_to(folder)
        if path.suffix.lower() in SOUND_SUFFIXES:
            # `M003/audio/angry/level_1/001.m4a` names no view: it counts as front.
            if take := parse_take(PurePath(*(part for part in (root / inside).parts if part != "audio"))):
                sounds.setdefault(take, path)
            continue
        take = parse_take(root / inside)
        if take is None:
            rejected.append(Rejected(inside.as_posix(), "its name is not that of a take of MEAD", "not_listed"))
        elif take in videos:
            first = videos[take].relative_to(folder).as_posix()
            rejected.append(Rejected(inside.as_posix(), f"the same take as {first}", "duplicate"))
        else:
            videos[take] = path
    return videos, sounds, rejected


def _holds_sound(path: Path) -> bool:
    try:
        return probe(path).has_audio
    except UserError:
        return False


def _absent_actors(takes: Iterable[Take], views: Sequence[str]) -> list[Rejected]:
    """The actors who were not filmed from the views asked for: W017 is there from below only."""
    filmed = defaultdict(set)
    for take in takes:
        filmed[take.actor].add(take.view)
    return [
        Rejected(
            actor, f"no take from {', '.join(views)}; there is {', '.join(v for v in VIEWS if v in own)}", "absent"
        )
        for actor, own in sorted(filmed.items())
        if not own & set(views)
    ]


# -- splits ----------------------------------------------------------------------------------------------------------


def _split(takes: Iterable[Take], split: str) -> tuple[dict[Take, str], list[str]]:
    """The split of each take, the same for all views of it, and what is to be said of it."""
    takes = list(takes)
    actors = {take.actor for take in takes}
    if split == "official":
        return _split_sentences(takes), []
    if split == "random":
        by_actor = split_identities(actors, val_percent=15, test_percent=15)
        return {take: by_actor[take.actor] for take in takes}, []
    held_out = {"test": IDENTITY_TEST, "val": IDENTITY_VAL}
    by_actor = {actor: name for name, own in held_out.items() for actor in own}
    absent = {name: [actor for actor in own if actor not in actors] for name, own in held_out.items()}
    notes = [f"{name} lacks {', '.join(own)}: not in the folder" for name, own in absent.items() if own]
    return {take: by_actor.get(take.actor, "train") for take in takes}, notes


def _split_sentences(takes: Iterable[Take]) -> dict[Take, str]:
    """The last numbers of each group are test, those before them val.

    Numbers have gaps (one actor's run to 30, another's 30 sentences to 58), so the last ones are counted among the
    numbers there are, whatever they are, from any view and with or without sound. A group that is too small gives to
    test first, then to val.
    """
    numbers = defaultdict(set)
    for take in takes:
        numbers[take.group].add(take.number)
    splits = {}
    for group, own in numbers.items():
        tests, vals = OFFICIAL_NEUTRAL if group[1] == "neutral" else OFFICIAL_OTHERS
        for place, number in enumerate(sorted(own, reverse=True)):
            splits[group, number] = "test" if place < tests else "val" if place < tests + vals else "train"
    return {take: splits[take.group, take.number] for take in takes}
