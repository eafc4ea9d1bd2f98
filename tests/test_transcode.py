"""One data set as another codec and size."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emohead.datamodules.dataset.clip import StoredClip
from emohead.datamodules.dataset.estimate import estimate_codecs
from emohead.datamodules.dataset.manifest import load_manifest
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.transcode import WORK, transcode
from emohead.datamodules.dataset.verify import verify_shards
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.sample import FORMAT_VERSION, Rejected
from emohead.models.errors import UserError

from .shard_clips import SIZE, face_model, make_clip, write_clips

LARGE = 64


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.fixture(scope="module", params=["mjpeg", "h264"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips for training in two shards, one for validation, one that was left out."""
    out = tmp_path_factory.mktemp(request.param) / "source"
    with ShardWriter(out, size=LARGE, codec=request.param, clips_per_shard=3) as writer:
        for number in range(5):
            writer.write(make_clip(number, "train" if number < 4 else "val", 20 + number, LARGE))
        writer.close(face_model(), [Rejected("left.mp4", "no face", "no_face")])
    return out


@pytest.mark.parametrize("size", [LARGE, SIZE])
def test_only_frames_and_landmarks_change(source: Path, size: int, tmp_path: Path) -> None:
    held = load_manifest(source)
    codec = "h264" if held.codec == "mjpeg" else "mjpeg"
    out = tmp_path / "out"
    manifest = transcode(source, out, codec=codec, size=size)
    assert verify_shards(out) == []
    assert manifest == load_manifest(out)
    assert (manifest.codec, manifest.size) == (codec, size)
    kept = [replace(shard, bytes=0, sha256="") for shard in held.shards]
    assert [replace(shard, bytes=0, sha256="") for shard in manifest.shards] == kept
    assert replace(manifest, codec=held.codec, size=held.size, shards=held.shards) == held  # statistics, rejected, ...
    before, after = ClipReader(source), ClipReader(out)
    assert before.keys() == after.keys()
    for key in before.keys(None):
        old, new = before.clip(key), after.clip(key)
        assert [old.member(name) for name in ("flac", "motion.npy", "identity.npy")] == [
            new.member(name) for name in ("flac", "motion.npy", "identity.npy")
        ]
        wanted = old.landmarks().astype(float) * size / LARGE
        np.testing.assert_allclose(new.landmarks(), wanted, atol=0.02)
        info = old.info().as_dict() | {"size": size}
        info["tools"] = info["tools"] | {"transcoded_from": f"{held.codec} {LARGE} px"}
        assert new.info().as_dict() == info
        for index in (0, old.num_frames - 1):
            scores = [psnr(frame, new.frames([index])[0]) for frame in old.frames(size=size)]
            assert int(np.argmax(scores)) == index
            assert scores[index] > 30


def test_the_same_bytes_again_and_with_processes(tmp_path: Path) -> None:
    write_clips(tmp_path / "source", counts={"train": 4, "test": 1}, size=LARGE)
    seen: list[tuple[int, int]] = []
    transcode(tmp_path / "source", tmp_path / "a", codec="mjpeg", size=SIZE)
    tell = lambda done, total, _: seen.append((done, total))  # noqa: E731
    transcode(tmp_path / "source", tmp_path / "b", codec="mjpeg", size=SIZE, workers=2, progress=tell)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert seen == [(done, 3) for done in range(4)]


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(tmp_path: Path) -> None:
    """Killed after its first shard: that one is not packed again, nothing can be seen before the end."""
    source, out = tmp_path / "source", tmp_path / "out"
    write_clips(source, counts={"train": 12}, size=LARGE, num_frames=240)
    transcode(source, tmp_path / "whole", codec="mjpeg", size=SIZE)
    call = f"transcode({str(source)!r}, {str(out)!r}, codec='mjpeg', size={SIZE})"
    code = f"from emohead.datamodules.dataset.transcode import transcode; {call}"
    run = subprocess.Popen([sys.executable, "-c", code])
    first = out / WORK / "train-000000" / "manifest.json"
    deadline = time.monotonic() + 120
    while not first.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert first.exists()
    assert os.listdir(out) == [WORK]
    packed = (first.parent / "train-000000.tar").stat().st_mtime_ns
    with pytest.raises(UserError, match="something else was begun here"):
        transcode(source, out, codec="h264", size=SIZE)
    seen: list[int] = []
    transcode(source, out, codec="mjpeg", size=SIZE, progress=lambda done, total, label: seen.append(done))
    assert seen[0] >= 1
    assert (out / "train-000000.tar").stat().st_mtime_ns == packed
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("stop_before", ["train-000001.tar", "manifest.json"])
def test_a_run_stopped_while_it_moves_its_tars_goes_on(stop_before: str, tmp_path: Path) -> None:
    """The last step fails once, as a full disk or a lost mount makes it, and is done by the same command again."""
    source, out = tmp_path / "source", tmp_path / "out"
    write_clips(source, counts={"train": 5}, size=LARGE)
    transcode(source, tmp_path / "whole", codec="mjpeg", size=SIZE)
    (out / WORK).parent.mkdir()
    blocker = out / stop_before
    code = "\n".join(
        (
            "import sys, pathlib",
            "from emohead.datamodules.dataset import transcode",
            "replace = pathlib.Path.replace",
            "def failing(self, target):",
            f"    if pathlib.Path(target) == pathlib.Path({str(blocker)!r}): sys.exit(9)",
            "    return replace(self, target)",
            "pathlib.Path.replace = failing",
            f"transcode.transcode({str(source)!r}, {str(out)!r}, codec='mjpeg', size={SIZE})",
        )
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert not (out / "manifest.json").exists()
    transcode(source, out, codec="mjpeg", size=SIZE)
    assert tree(out) == tree(tmp_path / "whole")


def test_a_run_stopped_before_it_swept_up_is_finished(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_clips(source, counts={"train": 1}, size=LARGE)
    transcode(source, out, codec="h264")
    whole = tree(out)
    shards = [[shard.name, shard.sha256] for shard in load_manifest(source).shards]
    (out / WORK).mkdir()
    (out / WORK / "transcode.json").write_text(
        json.dumps({"version": FORMAT_VERSION, "codec": "h264", "size": LARGE, "shards": shards})
    )
    transcode(source, out, codec="h264")
    assert tree(out) == whole
    with pytest.raises(UserError, match="already holds a data set"):
        transcode(source, out, codec="h264")


def test_what_cannot_be_meant_is_refused(source: Path, tmp_path: Path) -> None:
    held = load_manifest(source).codec
    out = tmp_path / "out"
    wrong = {
        "would add no detail": {"codec": held, "size": 2 * LARGE},
        "already; nothing to do": {"codec": held},
        "choose one of mjpeg, h264": {"codec": "vp9"},
        "must be even": {"codec": held, "size": 33},
    }
    for message, arguments in wrong.items():
        with pytest.raises(UserError, match=message) as error:
            transcode(source, out, **arguments)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        transcode(source, out, codec=held, size=SIZE)
    assert os.listdir(out) == ["notes.txt"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_source_is_named(workers: int, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_clips(source, counts={"train": 4})
    offset, size, _ = json.loads((source / "train-000001.index.json").read_text())["samples"][0]["members"]["flac"]
    data = bytearray((source / "train-000001.tar").read_bytes())
    data[offset + size // 2] ^= 0xFF
    (source / "train-000001.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"train-000001\.tar: clip003\.flac"):
        transcode(source, out, codec="h264", workers=workers)
    assert os.listdir(out) == [WORK]


def test_what_the_other_codec_would_cost_is_what_it_costs(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, frames_of, read = load_manifest(source), StoredClip.frames, []

    def counted(clip: StoredClip, at: Sequence[int] | None = None, **how: Any) -> np.ndarray:
        read.append(len(at or []))
        return frames_of(clip, at, **how)

    monkeypatch.setattr(StoredClip, "frames", counted)
    monkeypatch.setattr(time, "process_time", lambda: 0.1 * read.count(1))  # a single frame takes a tenth of a second
    here, other = sorted(estimate_codecs(source), key=lambda estimate: not estimate.held)
    assert (here.codec, other.codec) == (held.codec, "h264" if held.codec == "mjpeg" else "mjpeg")
    assert here.gigabytes == pytest.approx(sum(shard.bytes for shard in held.shards) / 1e9)
    made = transcode(source, tmp_path / "out", codec=other.codec)
    assert other.gigabytes == pytest.approx(sum(shard.bytes for shard in made.shards) / 1e9, rel=0.15)
    assert here.frames_per_second == other.frames_per_second == pytest.approx(10)
