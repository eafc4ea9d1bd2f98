"""Packing, reading back, checking and rebuilding a data set."""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import re
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from emohead.datamodules.dataset.layout import MEMBERS, unpack_ranges
from emohead.datamodules.dataset.manifest import load_manifest
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.dataset.reindex import index_shards
from emohead.datamodules.dataset.verify import verify_shards
from emohead.datamodules.dataset.writer import ShardWriter, encode_members, npy_bytes
from emohead.datamodules.sample import FORMAT_VERSION, Rejected
from emohead.datamodules.stream.selection import pooled_statistics
from emohead.models.errors import UserError

from .shard_clips import SIZE, face_model, make_clip, write_clips


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def flip_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "data"
    write_clips(out)
    return out


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_the_same_clips_give_the_same_bytes(codec: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_clips(tmp_path / name, counts={"train": 4, "test": 1}, codec=codec)
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert [n for n in first if n.endswith(".tar")] == ["test-000000.tar", "train-000000.tar", "train-000001.tar"]
    assert first == second


def test_tars_are_plain(corpus: Path) -> None:
    with tarfile.open(corpus / "train-000000.tar") as tar:
        names = tar.getnames()
        info = json.load(tar.extractfile("clip001.json"))  # type: ignore[arg-type]
    assert names == [f"clip{i:03d}.{member}" for i in range(3) for member in MEMBERS]
    assert info["emotion"] == "contempt"
    dataset = webdataset.WebDataset(str(corpus / "train-000000.tar"), shardshuffle=False)
    samples = list(dataset)
    assert [sample["__key__"] for sample in samples] == ["clip000", "clip001", "clip002"]
    assert set(MEMBERS) <= set(samples[0])
    assert np.load(io.BytesIO(samples[0]["motion.npy"])).shape == (30, 10)


@pytest.mark.parametrize(("codec", "wanted"), [("mjpeg", 34), ("h264", 31)])
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_clip_reads_back(codec: str, wanted: float, decoder: str, tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 2}, codec=codec, size=64, num_frames=40)
    reader = ClipReader(tmp_path, decoder=decoder)
    source = make_clip(1, num_frames=40, size=64)
    indices = [39, 0, 13, 13, 25, 14, 1]
    frames = reader.frames("clip001", indices)  # (n, 3, S, S)
    assert frames.dtype == np.uint8
    for index, frame in zip(indices, frames, strict=True):
        scores = [psnr(frame.transpose(1, 2, 0), other) for other in source.frames]
        assert int(np.argmax(scores)) == index
        assert scores[index] > wanted
    np.testing.assert_allclose(reader.speech("clip001"), source.speech, atol=2e-5)
    np.testing.assert_array_equal(reader.motion("clip001"), source.motion)
    np.testing.assert_array_equal(reader.identity("clip001"), source.identity)
    np.testing.assert_array_equal(reader.landmarks("clip001"), source.landmarks)
    assert reader.info("clip001").as_dict() == source.info.as_dict()
    assert reader.frames("clip001", [3], size=24).shape == (1, 3, 24, 24)


def test_frames_shrink_without_a_shift(tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 1}, size=64)
    reader = ClipReader(tmp_path)
    whole = reader.frames("clip000", [5])[0].astype(float)
    halved = whole.reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
    assert psnr(reader.frames("clip000", [5], size=32)[0], halved) > 36


def test_speech_is_cut_or_filled_to_the_video(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data", size=SIZE) as writer:
        for number, samples in enumerate((30 * 640 - 600, 30 * 640 + 600)):
            clip = make_clip(number)
            clip.speech = np.full(samples, 0.5, np.float32)
            writer.write(clip)
        writer.close(face_model())
    reader = ClipReader(tmp_path / "data")
    short, long = reader.speech("clip000"), reader.speech("clip001")
    assert len(short) == len(long) == 30 * 640
    assert (short[-600:] == 0).all()
    assert (short[:-600] > 0.4).all()
    assert (long > 0.4).all()
    assert verify_shards(tmp_path / "data") == []


def test_the_manifest_says_what_is_there(corpus: Path) -> None:
    manifest = load_manifest(corpus)
    assert [(s.name, s.clips) for s in manifest.shards] == [
        ("train-000000.tar", 3),
        ("train-000001.tar", 3),
        ("train-000002.tar", 2),
        ("val-000000.tar", 3),
    ]
    assert manifest.splits["train"].clips == 8
    assert manifest.splits["train"].seconds == pytest.approx(8 * 30 / 25)
    assert manifest.splits["train"].emotions["none"] == {"none": 2}
    assert sum(n for levels in manifest.splits["train"].emotions.values() for n in levels.values()) == 8
    assert manifest.face_model["checksum"] == face_model().checksum()
    assert sum(moments.count for moments in manifest.motion.values()) == 8 * 30


def test_motion_statistics_are_those_of_all_frames_for_training(tmp_path: Path) -> None:
    lengths = {0: 30, 1: 7, 2: 50}
    with ShardWriter(tmp_path, size=SIZE, clips_per_shard=2) as writer:
        for number, length in lengths.items():
            writer.write(make_clip(number, num_frames=length))
        writer.write(make_clip(3, split="val", num_frames=90))
        writer.close(face_model())
    clips = [make_clip(number, num_frames=length) for number, length in lengths.items()]
    left_out = next(clip.info.emotion for clip in clips if clip.info.emotion)
    for held in ([], [left_out]):
        frames = np.concatenate([clip.motion for clip in clips if clip.info.emotion not in held])
        mean, std = pooled_statistics([ClipReader(tmp_path)], held)
        np.testing.assert_allclose(mean, frames.mean(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(std, frames.std(0), rtol=1e-5)


def test_rejected_clips_are_kept_with_reasons(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, size=SIZE) as writer:
        writer.write(make_clip(0))
        writer.close(face_model(), [Rejected("b.mp4", "no face", "no_face")])
    assert load_manifest(tmp_path).rejected == [Rejected("b.mp4", "no face", "no_face")]


def test_nothing_is_visible_before_close_or_after_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "data"
    with contextlib.suppress(RuntimeError), ShardWriter(out, size=SIZE, clips_per_shard=1) as writer:
        writer.write(make_clip(0))
        assert [path.name for path in out.iterdir()] == [".partial"]
        raise RuntimeError("the next clip failed")
    assert not out.exists()


def test_what_a_killed_run_left_is_swept_away(tmp_path: Path) -> None:
    killed = ShardWriter(tmp_path, size=SIZE, clips_per_shard=1)
    killed.write(make_clip(9))
    write_clips(tmp_path, counts={"train": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "facemodel.npz",
        "manifest.json",
        "train-000000.index.json",
        "train-000000.tar",
    ]


def test_wrong_use_of_the_writer_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose another folder or delete it"):
        ShardWriter(corpus, size=SIZE)
    with pytest.raises(UserError, match="choose one of mjpeg, h264"):
        ShardWriter(tmp_path / "a", size=SIZE, codec="vp9")
    with ShardWriter(tmp_path / "a", size=SIZE) as writer:
        writer.write(make_clip(0))
        with pytest.raises(UserError, match="clip000: this key was written before"):
            writer.write(make_clip(0))
        dotted = make_clip(1)
        dotted.info.key = "a.b"
        with pytest.raises(UserError, match=r"'a\.b'"):
            writer.write(dotted)
    with ShardWriter(tmp_path / "b", size=SIZE) as writer, pytest.raises(UserError, match="no clip to write"):
        writer.close(face_model())


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
@pytest.mark.parametrize("member", MEMBERS)
def test_a_damaged_member_is_named(codec: str, member: str, tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 3}, codec=codec)
    assert verify_shards(tmp_path) == []
    sample = json.loads((tmp_path / "train-000000.index.json").read_text())["samples"][1]
    offset, size, _ = sample["members"][member]
    middle = (
        int(unpack_ranges(sample["ranges"])[7][:2].sum()) - 9 if codec == "mjpeg" and member == "mp4" else size // 2
    )
    flip_byte(tmp_path / "train-000000.tar", offset + middle)
    problems = verify_shards(tmp_path)
    assert len(problems) == 2  # the shard, the member
    assert all("train-000000.tar" in problem for problem in problems)
    assert f"clip001.{member}" in problems[1]
    reader = ClipReader(tmp_path)
    read = {"mp4": reader.frames, "flac": reader.speech, "motion.npy": reader.motion, "json": reader.info}
    read |= {"identity.npy": reader.identity, "landmarks.npy": reader.landmarks}
    with pytest.raises(UserError, match=f"train-000000.tar: clip001.{member}"):
        read[member]("clip001")
    read[member]("clip000")
    read[member]("clip002")


def test_landmarks_of_one_frame_are_read_and_checked_alone(tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 2})
    clip = ClipReader(tmp_path).clip("clip001")
    for frame in (0, 7, 29):
        np.testing.assert_array_equal(clip.landmarks_at(frame), clip.landmarks()[frame])
    offset, size, _ = clip.record["members"]["landmarks.npy"]
    flip_byte(tmp_path / "train-000000.tar", offset + size - 1)
    np.testing.assert_array_equal(clip.landmarks_at(28), make_clip(1).landmarks[28])
    with pytest.raises(UserError, match=r"clip001\.landmarks\.npy: those of frame 29"):
        clip.landmarks_at(29)
    edit_json(tmp_path / INDEX, lambda content: [sample.pop("landmark_rows") for sample in content["samples"]])
    with pytest.raises(UserError, match=r"clip001\.landmarks\.npy: .*SHA-256"):  # an index without them: all or nothing
        ClipReader(tmp_path).clip("clip001").landmarks_at(28)
    np.testing.assert_array_equal(ClipReader(tmp_path).clip("clip000").landmarks_at(3), make_clip(0).landmarks[3])


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 3})
    path = tmp_path / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:30_000])
    problems = verify_shards(tmp_path)
    assert problems
    assert all("train-000000.tar" in problem for problem in problems)


def test_verify_takes_several_workers(corpus: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify_shards(corpus, workers=2, progress=lambda done, total, _: seen.append((done, total))) == []
    assert seen == [(i, 15) for i in range(1, 16)]  # 4 tars, 11 clips


def edit_json(path: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


INDEX, MANIFEST = "train-000000.index.json", "manifest.json"
DISAGREEMENTS: dict[str, tuple[str, Callable[[dict], object], str]] = {
    "index of another tar": (INDEX, lambda c: c.update(shard="x.tar"), "shard is 'x.tar', in the manifest"),
    "index of another codec": (INDEX, lambda c: c.update(codec="h264"), "codec is 'h264'"),
    "frames of a clip": (INDEX, lambda c: c["samples"][1].update(frames=29), r"index\.json: .*ranges"),
    "emotion in the index": (INDEX, lambda c: c["samples"][1].update(emotion="sad"), "index of this tar"),
    "key in the index": (INDEX, lambda c: c["samples"][1].update(key="other"), r"other\.json: key is 'clip001'"),
    "identity in the index": (INDEX, lambda c: c["samples"][1].update(identity="x"), r"clip001\.json: identity"),
    "member of the index": (
        INDEX,
        lambda c: c["samples"][1]["members"].pop("flac"),
        r"clip001\.flac: not in the index",
    ),
    "place of a member": (
        INDEX,
        lambda c: c["samples"][1]["members"]["flac"].__setitem__(0, 512),
        r"clip001\.flac: lies elsewhere",
    ),
    "a key twice": (INDEX, lambda c: c["samples"][1].update(key="clip000"), "clip000: 2 clips have this key"),
    "frames of a shard": (MANIFEST, lambda c: c["shards"][0].update(frames=1), r"index\.json: frames is 90"),
    "clips of a split": (MANIFEST, lambda c: c["splits"]["train"].update(clips=4), "split 'train' is not the sum"),
    "a missing tar": (MANIFEST, lambda c: c["shards"][0].update(name="gone.tar"), r"gone\.index\.json: no such file"),
    "the split of a shard": (
        MANIFEST,
        lambda c: c["shards"][0].update(split="val"),
        r"clip000\.json: split is 'train'",
    ),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_what_manifest_index_and_tar_say_differently_is_named(case: str, tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 3})
    assert verify_shards(tmp_path) == []
    name, edit, message = DISAGREEMENTS[case]
    edit_json(tmp_path / name, edit)
    problems = verify_shards(tmp_path)
    assert any(re.search(message, problem) for problem in problems), problems
    assert all(str(tmp_path) in problem and "\n" not in problem for problem in problems)


def test_files_beside_the_data_set_are_named(tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 3, "val": 1})
    (tmp_path / "val-000001.tar").write_bytes(b"")
    (tmp_path / "val-000000.tar").unlink()
    problems = verify_shards(tmp_path)
    assert f"{tmp_path / 'val-000001.tar'}: not in the manifest" in problems[0]
    assert all("val-000000" in problem for problem in problems[1:])
    assert "train" not in " ".join(problems)


NONSENSE: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "flac": lambda members: members["flac"][: len(members["flac"]) // 2],
    "mp4": lambda members: members["mp4"][: len(members["mp4"]) * 2 // 3],
    "json": lambda members: members["json"].replace(b'"frames": 30', b'"frames": 30, "extra": 1'),
    "motion.npy": lambda members: npy_bytes(np.full((30, 10), np.nan, np.float32)),
    "identity.npy": lambda members: npy_bytes(np.zeros(2, np.float32)),
    "landmarks.npy": lambda members: npy_bytes(np.full((30, 68, 2), np.inf, np.float16)),
}


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_that_never_was_right_is_named(member: str, decoder: str, tmp_path: Path) -> None:
    """Every checksum agrees, but what was packed is nonsense."""
    with ShardWriter(tmp_path, size=SIZE, codec="h264") as writer:
        for number in range(3):
            members = encode_members(make_clip(number), codec="h264")
            if number == 1:
                members[member] = NONSENSE[member](members)
            writer.write_members(f"clip{number:03d}", members)
        writer.close(face_model())
    problems = verify_shards(tmp_path, decoder=decoder)
    assert len(problems) == 1
    assert f"train-000000.tar: clip001.{member}: " in problems[0]


@pytest.mark.parametrize(("number", "words"), [(signal.SIGSEGV, "ended by SIGSEGV"), (signal.SIGSTOP, "no answer")])
def test_a_check_whose_process_crashes_or_hangs_is_a_problem(number: int, words: str, tmp_path: Path) -> None:
    """The other clips are checked all the same, by a process in its place."""
    write_clips(tmp_path, counts={"train": 6})
    seen: list[int] = []

    def strike(done: int, total: int, label: str) -> None:
        seen.append(done)
        if done == 3:
            os.kill(multiprocessing.active_children()[0].pid or 0, number)

    problems = verify_shards(tmp_path, workers=1, patience=3, progress=strike)
    assert seen == list(range(1, 9))  # two tars, six clips
    assert len(problems) == 1
    assert re.search(r"train-000000\.tar: clip00[012]: its check was lost: " + words, problems[0])
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("name", ["manifest.json", "train-000000.index.json"])
def test_another_version_is_refused(name: str, tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 1})
    content = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps(content | {"version": FORMAT_VERSION + 1}))
    with pytest.raises(UserError, match=f"{name}: format version {FORMAT_VERSION + 1}"):
        ClipReader(tmp_path).clip("clip000")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        ClipReader(tmp_path)
    write_clips(tmp_path, counts={"train": 1})
    with pytest.raises(UserError, match="no clip 'nobody'"):
        ClipReader(tmp_path).info("nobody")
    face_model(seed=1).save(tmp_path / "facemodel.npz")
    with pytest.raises(UserError, match=r"facemodel\.npz: another face model"):
        _ = ClipReader(tmp_path).face_model
    (tmp_path / "train-000000.index.json").unlink()
    with pytest.raises(UserError, match=r"index\.json: no such file"):
        ClipReader(tmp_path).info("clip000")


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_a_tar_packed_elsewhere_can_be_indexed(codec: str, tmp_path: Path) -> None:
    write_clips(tmp_path / "ours", counts={"train": 3, "val": 1}, codec=codec)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    face_model().save(theirs / "facemodel.npz")
    for name in ("train-000000.tar", "val-000000.tar"):
        with webdataset.TarWriter(str(theirs / name)) as tar, tarfile.open(tmp_path / "ours" / name) as source:
            samples: dict[str, dict] = {}
            for entry in source:
                key, _, member = entry.name.partition(".")
                samples.setdefault(key, {"__key__": key})[member] = source.extractfile(entry).read()  # type: ignore[union-attr]
            for sample in samples.values():
                tar.write(sample)
    manifest = index_shards(theirs)
    assert verify_shards(theirs) == []
    assert manifest.splits == load_manifest(tmp_path / "ours").splits
    assert manifest.motion == load_manifest(tmp_path / "ours").motion
    ours, other = ClipReader(tmp_path / "ours"), ClipReader(theirs)
    assert ours.keys() == other.keys()
    np.testing.assert_array_equal(ours.frames("clip002", [4]), other.frames("clip002", [4]))


def test_indexing_refuses_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tar to index"):
        index_shards(tmp_path)
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as tar:
        tar.write({"__key__": "a", "json": {"key": "a"}})
    with pytest.raises(UserError, match=r"facemodel\.npz: no such face model"):
        index_shards(tmp_path)
    face_model().save(tmp_path / "facemodel.npz")
    with pytest.raises(UserError, match=r"x\.tar: a: lacks mp4"):
        index_shards(tmp_path)
