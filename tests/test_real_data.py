"""Real clips through the same commands: prepare, four stages, a video of a real portrait. Skipped without them."""

import json
from pathlib import Path

import av
import pytest
import soundfile
from emohead.datamodules.dataset.reader import ClipReader

from .conftest import emohead, refused

TINY = [
    "trainer.max_steps=2",
    "trainer.val_every=2",
    "data.batch_size=2",
    "data.num_workers=0",
    "tracking.wandb=disabled",
]
MAX_RESIDUAL = 0.025  # of the distance of the outer eye corners


@pytest.fixture(scope="module")
def hdtf(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hdtf") / "data"
    result = emohead("prepare", "folder", real_data / "clips" / "hdtf", out, "--size", 128, "--workers", 2)
    assert result.returncode == 0, result.stderr
    return out


def check_all_kept(folder: Path, num_clips: int) -> None:
    reader = ClipReader(folder)
    assert not reader.manifest.rejected
    infos = [reader.info(key) for key in reader.keys(None)]
    assert len({info.source for info in infos}) == num_clips
    for info in infos:
        assert info.tracking_residual <= MAX_RESIDUAL, info.key
        assert len(reader.speech(info.key)) == 640 * info.frames
        assert reader.landmarks(info.key).shape == (info.frames, 68, 2)
    assert all(reader.keys(split) for split in ("train", "val", "test"))


def test_all_hdtf_clips_are_kept(hdtf: Path):
    check_all_kept(hdtf, 6)
    assert emohead("shards", "verify", hdtf).returncode == 0


def test_all_grid_clips_are_kept_in_the_same_face_model(real_data: Path, hdtf: Path, tmp_path: Path):
    model = hdtf / "facemodel.npz"
    source = real_data / "clips" / "grid"
    result = emohead("prepare", "folder", source, tmp_path / "own", "--size", 128, "--workers", 2)
    assert result.returncode == 0, result.stderr
    check_all_kept(tmp_path / "own", 7)
    other = [json.loads((folder / "manifest.json").read_text())["face_model"] for folder in (tmp_path / "own", hdtf)]
    assert other[0]["checksum"] != other[1]["checksum"]
    mixed = f"data.shards=[{hdtf},{tmp_path / 'own'}]"
    refused(emohead("train", "emotion", "-c", "emotion-debug", mixed, f"run={tmp_path / 'run'}"), str(tmp_path / "own"))
    assert model.is_file()


def test_four_stages_and_a_video(real_data: Path, hdtf: Path, tmp_path: Path):
    """The debug configurations, no code changed: real clips have no labels, another face model and other speech."""
    exports = {name: tmp_path / name / "export" / f"{name}.safetensors" for name in ("emotion", "motion", "face")}
    given = [f"{name}={path}" for name, path in exports.items()]
    needs = {"emotion": [], "motion": given[:1], "face": [], "distill": given}
    for stage, inputs in needs.items():
        overrides = [f"data.shards=[{hdtf}]", f"run={tmp_path / stage}", *TINY, *inputs]
        result = emohead("train", stage, "-c", f"{stage}-debug", *overrides)
        assert result.returncode == 0, result.stderr
    speech = real_data / "speech" / "ravdess_16k" / "03-01-03-02-01-01-01.wav"
    talker, out = tmp_path / "distill" / "export" / "talker.safetensors", tmp_path / "video.mp4"
    portraits = real_data / "portraits" / "hdtf_vox"
    result = emohead(
        "infer",
        talker,
        "--portrait",
        portraits / "AdamSchiff_0.jpg",
        "--speech",
        speech,
        "--audio",
        speech,
        "--out",
        out,
    )
    assert result.returncode == 0, result.stderr
    with av.open(out) as video:
        frames = sum(1 for _ in video.decode(video=0))
    samples, rate = soundfile.read(speech)
    assert abs(frames / 25 - len(samples) / rate) <= 1 / 25
