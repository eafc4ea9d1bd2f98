"""Damaged shards: whatever is wrong with the bytes, nothing crashes or hangs, and what is lost is named.

Sixty damages with every test run; EMOHEAD_SOAK=1 makes it five hundred.
"""

import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.reindex import index_shards
from emohead.datamodules.dataset.verify import verify_shards
from emohead.models.errors import UserError

from .shard_clips import write_clips
from .stream_data import data_of, keys_of, take

COUNT = 500 if os.environ.get("EMOHEAD_SOAK") == "1" else 60
GROUP = 10  # damages of one test
TAR = "train-000000.tar"
CODECS = ("mjpeg", "h264")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two data sets of five clips, the first three of them in the tar that will be damaged."""
    folder = tmp_path_factory.mktemp("fuzz")
    for codec in CODECS:
        write_clips(folder / codec, counts={"train": 5}, codec=codec, num_frames=14)
    return {codec: folder / codec for codec in CODECS}


# ---------------------------------------------------------------------------------------------- damages


def flip_bits(data: bytearray, draw: random.Random) -> bytearray:
    for _ in range(draw.choice((1, 1, 3, 50))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def truncate(data: bytearray, draw: random.Random) -> bytearray:
    return data[: draw.randrange(len(data))]


def zero(data: bytearray, draw: random.Random) -> bytearray:
    start = draw.randrange(len(data))
    size = min(draw.choice((10, 600, 5000)), len(data) - start)
    data[start : start + size] = bytes(size)
    return data


def overwrite_header(data: bytearray, draw: random.Random) -> bytearray:
    """Nonsense in one of the tar's headers: name, size, checksum or type."""
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        entry = draw.choice(tar.getmembers())
    start, size = draw.choice(((0, 100), (124, 12), (148, 8), (156, 1)))
    data[entry.offset + start : entry.offset + start + size] = draw.randbytes(size)
    return data


def rewrite(data: bytearray, change: Callable[[tarfile.TarInfo, bytes], bytes | None]) -> bytearray:
    """The tar packed again, each entry and its bytes as `change` returns them; None leaves the entry out."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as old, tarfile.open(fileobj=out, mode="w") as new:
        for entry in old:
            file = old.extractfile(entry)
            assert file is not None
            content = change(entry, file.read())
            if content is not None:
                entry.size = len(content)
                new.addfile(entry, io.BytesIO(content))
    return bytearray(out.getvalue())


def rename_member(data: bytearray, draw: random.Random) -> bytearray:
    number = draw.randrange(18)
    names = ["../../outside.mp4", "/etc/passwd.json", "", "clip000.mp4", "x", "clip001.", "a/../../b.flac", "é.mp4"]
    names += ["clip002.json.json", "." * 90, "clip000.npy"]
    wanted, count = draw.choice(names), iter(range(18))

    def change(entry: tarfile.TarInfo, content: bytes) -> bytes:
        if next(count) == number:
            entry.name = wanted
        return content

    return rewrite(data, change)


def damage_member(data: bytearray, draw: random.Random) -> bytearray:
    """A sound tar around a member that is not: bits, length or bytes of zero, or nothing at all."""
    number, count = draw.randrange(18), iter(range(18))

    def change(entry: tarfile.TarInfo, content: bytes) -> bytes | None:
        if next(count) != number:
            return content
        if draw.random() < 0.15:
            return None
        return bytes(draw.choice((flip_bits, truncate, zero))(bytearray(content), draw))

    return rewrite(data, change)


DAMAGES = [flip_bits, truncate, zero, overwrite_header, rename_member, damage_member]


def damaged(original: Path, out: Path, number: int) -> bool:
    """A copy of a data set with its first tar damaged; whether that changed any byte."""
    shutil.copytree(original, out)
    draw = random.Random(number)
    before = (out / TAR).read_bytes()
    after = bytes(DAMAGES[number % len(DAMAGES)](bytearray(before), draw))
    (out / TAR).write_bytes(after)
    return after != before


# ---------------------------------------------------------------------------------------------- what must hold


def wrong_clips(folder: Path, original: Path, but: Sequence[str] = ()) -> set[str]:
    """Clips with a changed member, except the members in `but`, as far as a reader that uses the index can tell."""
    before, after = (original / TAR).read_bytes(), (folder / TAR).read_bytes()
    samples = json.loads((original / TAR.replace(".tar", ".index.json")).read_text())["samples"]
    members = [(sample["key"], name, *span) for sample in samples for name, span in sample["members"].items()]
    spans = [(key, offset, size) for key, name, offset, size, _ in members if name not in but]
    return {key for key, offset, size in spans if before[offset : offset + size] != after[offset : offset + size]}


def check_stream(folder: Path, log: Path, wrong: set[str], whole: set[str], decoder: str) -> None:
    """Every epoch goes on with the sound clips, and names each clip whose wrong member is read whole."""
    data = data_of(folder, stage="distill", batch_size=5, decoder=decoder, bad_samples=log)
    keys = keys_of(take(data.train_dataloader(), 6))
    named = {json.loads(line)["key"] for line in log.read_text().splitlines()} if log.exists() else set()
    sound = {f"clip{i:03d}" for i in range(5)} - wrong
    assert sound <= set(keys)
    assert named <= wrong
    assert whole <= named
    assert not whole & set(keys)


def check_verify(folder: Path, wrong: set[str], changed: bool) -> None:
    problems = verify_shards(folder)
    assert bool(problems) == changed
    assert all(TAR in problem and "\n" not in problem for problem in problems)
    for key in wrong:
        assert any(f"{key}." in problem for problem in problems), key


def refused(call: Callable[[], object]) -> str:
    """The message that a user gets; empty if all is well."""
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


def check_index(folder: Path) -> None:
    """Either the tar is refused by name, or the indexed clips can be read, and all others are named."""
    for index in folder.glob("*.index.json"):
        index.unlink()
    (folder / "manifest.json").unlink()
    before = {path.name for path in folder.iterdir()}
    refusal = refused(lambda: index_shards(folder))
    if refusal:
        assert TAR in refusal
        return
    assert {path.name for path in folder.iterdir()} - before <= {
        "manifest.json",
        TAR.replace(".tar", ".index.json"),
        "train-000001.index.json",
    }
    problems = verify_shards(folder)
    reader = ClipReader(folder)
    for key in reader.keys():  # noqa: SIM118 (no mapping)
        clip = reader.clip(key)
        for read in (clip.frames, clip.speech, clip.motion, clip.identity, clip.landmarks, clip.info):
            message = refused(read)
            if message:
                assert key in message
                assert any(key in problem for problem in problems), (message, problems)


@pytest.mark.parametrize("first", range(0, COUNT, GROUP))
def test_damaged_shards(originals: dict[str, Path], tmp_path: Path, first: int) -> None:
    for number in range(first, first + GROUP):
        codec = CODECS[number // len(DAMAGES) % 2]
        folder = tmp_path / str(number)
        changed = damaged(originals[codec], folder, number)
        wrong = wrong_clips(folder, originals[codec])
        by_frame = ("landmarks.npy", "mp4") if codec == "mjpeg" else ("landmarks.npy",)
        whole = wrong_clips(folder, originals[codec], but=by_frame)
        check_stream(folder, tmp_path / f"{number}.jsonl", wrong, whole, ("pyav", "decord")[number % 2])
        check_verify(folder, wrong, changed)
        check_index(folder)
        assert not (tmp_path.parent / "outside.mp4").exists()
