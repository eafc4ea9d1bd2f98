"""Pass `fit` of a preparation: which spans of which sources become clips, in which shards; face model and people."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from ...models.errors import UserError
from ..dataset.manifest import read_json
from ..jobs import Progress
from ..media.crop import crop_box, to_crop_units
from ..sample import FPS, SPLITS, Rejected
from ..tracking.gaps import interpolate_gaps
from .av_offset import estimate_offset, mouth_opening
from .gates import check_offset, check_sound, check_span, find_cuts, is_sure
from .listing import SourceList
from .people import Labelled, build_model, fit_people, save_people, stored_people
from .splits import split_identities
from .track import Track
from .work import PrepareConfig, WorkFolder, describe, digest, load_face_model

MAX_FRAMES = 10 * FPS  # of one clip
LISTED = 10  # rejected clips whose reasons an error gives
MIN_SHIFT = 2  # frames of delay that are worth a correction: one is within the error of the estimate
MAX_KEY_NAME = 64  # characters of the file name in a key: with its ending it fits the plain header of a tar


@dataclass
class Piece:
    """One clip to be: a span of a source."""

    source: int  # its number in the list
    number: int  # of this piece in its source
    key: str
    start: int  # frames of the source's interval, at 25 fps
    frames: int
    crop: tuple[int, int, int]  # left, top, side in pixels of the picture
    region: str  # as ClipInfo.region
    av_offset: int | None  # as ClipInfo
    av_confidence: float
    av_shift: int
    silent: bool = False
    split: str = ""

    @property
    def stop(self) -> int:
        return self.start + self.frames


Refusal = tuple[int, int, Rejected]  # number of the source, of the piece


@dataclass
class Plan:
    """`plan.json`: the clips to be packed, by shard."""

    inputs: str  # digest of options, source list and media
    described: dict[str, Any]
    frames: int  # tracked, those of rejected clips included
    shards: dict[str, list[Piece]]
    rejected: list[Refusal]

    @property
    def sha256(self) -> str:
        return digest(asdict(self))


def make_plan(
    listing: SourceList,
    keys: list[str],
    work: WorkFolder,
    config: PrepareConfig,
    tell: Progress,
) -> Plan:
    """Decide what becomes a clip, build the face model, find everybody's face at rest, and write all of it down."""
    work.drop_shards()
    model = load_face_model(config.face_model)
    way = _Ways(len(keys), (model is None) + 2, tell)
    pieces, rejected, frames = _cut_all(listing, keys, work, config, way)
    if not pieces:
        refuse_all([*listing.rejected, *(item[2] for item in rejected)])
    shards = assign_shards(pieces, listing, config.clips_per_shard)
    read = partial(labelled_tracks, listing, keys, work)
    if model is None:
        model = build_model(read([piece for piece in pieces if piece.split == "train"], way), config.holdout_emotions)
    model.save(work.face_model)
    if config.coefficients is None:
        by_person = sorted(pieces, key=lambda piece: listing.sources[piece.source].identity)
        people = fit_people(model, read(by_person, way))
    else:
        people = stored_people(config.coefficients, [listing.sources[piece.source] for piece in pieces])
    save_people(people, work.people, work.partial(work.people.name))
    plan = Plan(inputs_digest(listing, keys, config), describe(listing, config), frames, shards, rejected)
    work.write(work.plan, asdict(plan))
    way.end()
    return plan


class _Ways:
    """Progress of several ways through the sources."""

    def __init__(self, sources: int, ways: int, tell: Progress) -> None:
        self.sources, self.total, self.tell = sources, sources * ways, tell
        self.done, self.note = 0, "fit"
        tell(0, self.total, self.note)

    def step(self) -> None:
        self.done += 1
        self.tell(self.done, self.total, self.note)

    def next_way(self) -> None:
        """Sources that were left out count as read."""
        self.done = -(-self.done // self.sources) * self.sources

    def end(self) -> None:
        self.tell(self.total, self.total, self.note)


def _cut_all(
    listing: SourceList, keys: list[str], work: WorkFolder, config: PrepareConfig, way: _Ways
) -> tuple[list[Piece], list[Refusal], int]:
    """Pieces and refusals of all sources, and the frames that were tracked."""
    pieces: list[Piece] = []
    rejected: list[Refusal] = []
    frames = 0
    for index, key in enumerate(keys):
        track = load_track(work, key)
        if isinstance(track, Track):
            frames += len(track.found)
            for item in cut_source(listing, index, track, config):
                if isinstance(item, Piece):
                    pieces.append(item)
                else:
                    rejected.append(item)
        else:
            rejected.append((index, 0, track))
        way.note = f"fit, {len(rejected)} rejected" if rejected else "fit"
        way.step()
    return pieces, rejected, frames


def labelled_tracks(
    listing: SourceList, keys: list[str], work: WorkFolder, pieces: list[Piece], way: _Ways
) -> Iterator[tuple[str, Labelled]]:
    """The person, the label and the points of each piece; one track is in memory at a time."""
    way.next_way()
    for number, group in itertools.groupby(pieces, key=lambda piece: piece.source):
        source, track = listing.sources[number], load_track(work, keys[number])
        assert isinstance(track, Track), source.name
        for piece in group:
            yield source.identity, (source.emotion, piece_points(piece, track))
        way.step()


def refuse_all(rejected: list[Rejected]) -> None:
    """Raise that nothing is left."""
    counts = ", ".join(f"{count} {code}" for code, count in Counter(clip.code for clip in rejected).most_common())
    reasons = "; ".join(f"{clip.source}: {clip.reason}" for clip in rejected[:LISTED])
    raise UserError(f"no clip is fit for use ({len(rejected)} rejected; {counts})", reasons)


def inputs_digest(listing: SourceList, keys: list[str], config: PrepareConfig) -> str:
    return digest([describe(listing, config), keys])


def load_plan(work: WorkFolder) -> Plan | None:
    """The plan that was written, if there is one."""
    if not work.plan.is_file():
        return None
    content = read_json(work.plan, missing="the fit pass writes it")
    shards = {name: [_piece(piece) for piece in own] for name, own in content["shards"].items()}
    rejected = [(source, number, Rejected(**clip)) for source, number, clip in content["rejected"]]
    return Plan(**content | {"shards": shards, "rejected": rejected})


def _piece(content: dict[str, Any]) -> Piece:
    return Piece(**content | {"crop": tuple(content["crop"])})


def load_track(work: WorkFolder, key: str) -> Track | Rejected:
    """The track that the first pass has left for a source, or why there is none."""
    path = work.tracks / f"{key}.npz"
    if path.is_file():
        return Track.load(path)
    return Rejected(**json.loads((work.tracks / f"{key}.json").read_text(encoding="utf-8")))


# -- pieces ----------------------------------------------------------------------------------------------------------


def cut_source(listing: SourceList, index: int, track: Track, config: PrepareConfig) -> Iterator[Piece | Refusal]:
    """Equal pieces of at most 10 s; those that fail a gate as refusals."""
    source = listing.sources[index]
    opening = mouth_opening(interpolate_gaps(track.points, track.found)) if track.found.any() else np.zeros(0)
    offset = estimate_offset(opening, track.bands[: len(opening)]) if track.has_sound else None
    if refused := check_offset(offset, config.gates, source.name):
        yield index, 0, refused
        return
    sure = offset.frames if offset is not None and is_sure(offset, config.gates) else None
    shift = sure if sure is not None and abs(sure) >= MIN_SHIFT else 0
    cuts = find_cuts(track, config.gates)
    count = -(-len(track.found) // MAX_FRAMES)
    bounds = np.linspace(0, len(track.found), count + 1).round().astype(int).tolist()
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        first, last = source.start + start / FPS, source.start + stop / FPS
        name = source.name + (f" [{first:.2f}-{last:.2f} s]" if count > 1 else "")
        silent = check_sound(track, start, stop, config.gates, name)
        unfit = check_span(track, start, stop, cuts, config.gates, name)
        refused = unfit or (silent if config.silent == "reject" else None)
        if refused:
            yield index, number, refused
            continue
        box = crop_box(interpolate_gaps(track.points[start:stop], track.found[start:stop]))
        key = clip_key(index, source.path.stem, number)
        confidence = offset.confidence if offset is not None else 0.0
        yield Piece(
            source=index,
            number=number,
            key=key,
            start=start,
            frames=stop - start,
            crop=box,
            region=track.region,
            av_offset=sure,
            av_confidence=confidence,
            av_shift=shift,
            silent=silent is not None,
        )


def clip_key(source: int, name: str, piece: int) -> str:
    """Names the members of a clip; a name that is a whole sentence is cut short, tar programs bear 255 bytes."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:MAX_KEY_NAME]
    return f"{source:06d}_{plain}_{piece:03d}"


def piece_points(piece: Piece, track: Track) -> np.ndarray:
    """The points (T, 478, 3) of a piece in crop units."""
    span = slice(piece.start, piece.stop)
    return to_crop_units(interpolate_gaps(track.points[span], track.found[span]), piece.crop)


def assign_shards(pieces: list[Piece], listing: SourceList, clips_per_shard: int) -> dict[str, list[Piece]]:
    """Shard name -> its pieces in the order of the sources; fills in the split of each."""
    own = {piece.source: listing.sources[piece.source] for piece in pieces}
    by_identity = split_identities({source.identity for source in own.values() if source.split is None})
    counts = Counter[str]()
    shards: dict[str, list[Piece]] = {}
    for piece in pieces:
        source = own[piece.source]
        piece.split = source.split or by_identity[source.identity]
        name = f"{piece.split}-{counts[piece.split] // clips_per_shard:06d}"
        shards.setdefault(name, []).append(piece)
        counts[piece.split] += 1
    return dict(sorted(shards.items(), key=lambda item: (SPLITS.index(item[0].split("-")[0]), item[0])))
