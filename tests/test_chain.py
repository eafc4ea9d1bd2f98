"""The whole chain at its tiniest: every stage trains from tars, exports, resumes; the talker makes videos."""

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from emohead.datamodules.sample import EMOTIONS, SAMPLE_RATE
from emohead.models.checkpoint import load_checkpoint, save_checkpoint
from emohead.trainers.all_stages import STAGES
from emohead.trainers.run.export import export_run
from emohead.trainers.run.train import train

from .conftest import emohead, refused
from .onnx_networks import save_colours, save_pixels, save_squared, save_sync

STEP = [
    "trainer.val_every=100",
    "trainer.log_every=1",
    "data.batch_size=2",
    "data.num_workers=0",
    "tracking.wandb=disabled",
]


def test_demo_leaves_what_it_promises(demo: Path):
    for stage in STAGES:
        assert (demo / stage / "config.yaml").is_file()
        assert (demo / stage / "metrics.jsonl").read_text().count("train/") >= 2
        assert (demo / stage / "export" / f"{STAGES[stage].kind}.safetensors").is_file()
    metrics = json.loads((demo / "metrics.json").read_text())
    assert all(np.isfinite(figure["value"]) for figure in metrics["figures"])
    assert metrics["corpus"]["test_identities"] >= 1
    assert (demo / "report.html").stat().st_size > 50_000
    assert not list(demo.rglob("*.partial"))


def test_exports_know_where_they_come_from(demo: Path):
    talker = load_checkpoint(demo / "talker.safetensors", kind="talker")
    assert talker.provenance["steps"] == talker.provenance["checkpoint"]["step"] in (1, 2), "the better of the two"
    for stage in ("emotion", "motion", "face"):
        teacher = load_checkpoint(demo / stage / "export" / f"{stage}.safetensors", kind=stage)
        assert talker.provenance["inputs"][stage] == teacher.sha256
    assert talker.provenance["data"]


@pytest.mark.parametrize("way", ["text", "image", "audio"])
def test_videos_are_as_long_as_the_speech(demo: Path, way: str):
    speech, rate = soundfile.read(demo / "speech.wav")
    with av.open(demo / "videos" / f"{way}.mp4") as video:
        stream, sound = video.streams.video[0], video.streams.audio[0]
        assert (stream.codec_context.name, float(stream.average_rate)) == ("h264", 25.0)
        assert sound.codec_context.name == "aac"
        assert "AI-generated" in video.metadata["comment"]
        frames = sum(1 for _ in video.decode(video=0))
    assert abs(frames / 25 - len(speech) / rate) <= 1 / 25


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("stage", STAGES)
def test_resume_goes_on_where_it_was(demo: Path, tmp_path: Path, stage: str, precision: str):
    """Two steps and then one more are the three steps of an undisturbed run, to the last bit."""
    base = [Path(demo / stage / "config.yaml")]
    overrides = [*STEP, f"trainer.precision={precision}", "trainer.checkpoint_every=1"]
    if stage == "face":  # with all that it can have
        overrides += [f"perceptual.emotion={demo / 'emotion/export/emotion.safetensors'}"]
        overrides += ["adversary.start=1", "adversary.r1_every=2"]
    train(stage, base, [*overrides, f"run={tmp_path / 'a'}", "trainer.max_steps=3", "optimizer.final_lr=1"])
    train(stage, base, [*overrides, f"run={tmp_path / 'b'}", "trainer.max_steps=2", "optimizer.final_lr=1"])
    train(stage, base, [*overrides, f"run={tmp_path / 'b'}", "trainer.max_steps=3", "optimizer.final_lr=1"])
    for run in ("a", "b"):
        export_run(tmp_path / run, tmp_path / f"{run}.safetensors", last=True)
    assert load_checkpoint(tmp_path / "b.safetensors").sha256 == load_checkpoint(tmp_path / "a.safetensors").sha256
    rows = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3], "no step is missing or stands twice"
    if stage == "face":
        assert {"train/perceptual_loss", "train/adversarial_loss", "train/discriminator_loss"} <= steps[2].keys()


def test_export_of_a_run_is_its_export(demo: Path, tmp_path: Path):
    export_run(demo / "motion", tmp_path / "motion.safetensors")
    again = load_checkpoint(tmp_path / "motion.safetensors", kind="motion")
    assert again.sha256 == load_checkpoint(demo / "motion" / "export" / "motion.safetensors").sha256


def test_run_folder_keeps_its_network(demo: Path):
    result = emohead("train", "motion", "-c", demo / "motion" / "config.yaml", "network.dim=64")
    refused(result, "network", str(demo / "motion"))


def test_evaluate_prints_and_writes(demo: Path, tmp_path: Path):
    asked = ("evaluate", demo / "talker.safetensors", demo / "data")
    result = emohead(*asked, "--out", tmp_path, "--tracked-clips", 2)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    expected = {
        "text_image_top1",
        "audio_image_top1",
        "mouth_correlation",
        "m_lmd",
        "face_psnr",
        "face_ssim",
        "copy_psnr",
    }
    assert expected <= metrics.keys()
    assert {f"emotion_accuracy_{emotion}" for emotion in EMOTIONS} <= metrics.keys()
    assert {"true_emotion_accuracy", "true_sync_found", "foreign_sync_found"} <= metrics.keys()
    assert "emotion_accuracy_" not in result.stdout
    for told in ("description → image", "voice → name", "44 true clips of 2 people", "not measured, for they need"):
        assert told in " ".join(result.stdout.split()), told
    assert not [name for name in metrics if "seen_" in name], "no emotion was held out"
    content = json.loads((tmp_path / "metrics.json").read_text())
    videos, driving = content["videos"], {"driving_sync_confidence", "driving_sync_offset", "driving_emotion"}
    assert {"emotion_accuracy", *driving} <= videos["true frames"].keys()
    assert {"emotion_accuracy", "psnr", "temporal", *driving} <= videos["student: speech"].keys()
    assert not driving & videos["portrait"].keys()
    assert len(content["tracked"]) == 2
    low, high = content["ci"]["student: speech"]["psnr"]
    assert low < videos["student: speech"]["psnr"] < high
    assert " ±" in result.stdout
    flat = {f"{row}/{name}": value for row, figures in videos.items() for name, value in figures.items()}
    rows = list(csv.reader((tmp_path / "metrics.csv").open()))
    assert {name: float(value) for name, value in rows[1:]} == metrics | flat
    page = (tmp_path / "evaluation.html").read_text()
    assert f"{videos['portrait']['psnr']:.2f} ±" in page
    assert page.count("<video") == len(list((tmp_path / "videos").glob("*.mp4"))) > 0
    assert "mouth correlation" in page
    assert "true frames | student: true motion | student: speech" in page, "videos are called as in the table"
    refused(emohead("evaluate", demo / "talker.safetensors", demo / "data", "--unseen", "joy"), "--unseen joy")
    assert "description → image" in page
    assert "44 true clips of 2 people" in page
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, {}, kind="critics", config={})
    refused(emohead("evaluate", other, demo / "data"), "other.safetensors", "emotion, motion, face or talker")


def test_one_table_for_baselines_teacher_and_student(demo: Path, tmp_path: Path):
    teachers = [part for stage in ("emotion", "motion", "face") for part in ("--teacher", export_of(demo, stage))]
    asked = ("evaluate", demo / "talker.safetensors", demo / "data")
    squared = save_squared(tmp_path / "squared.onnx")
    result = emohead(*asked, "--out", tmp_path, *teachers, "--lpips", squared, "--tracked-clips", 0)
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "metrics.json").read_text())
    ways = ("mean motion", "true motion", "speech", "speech, true pose")
    made = ["true frames, again", "portrait", *(f"{who}: {way}" for who in ("student", "teacher") for way in ways)]
    assert list(content["videos"]) == ["true frames", *made]
    for row in made:
        figures = content["videos"][row]
        assert {"psnr", "ssim", "lpips", "emotion_accuracy"} <= figures.keys()
        assert ("driving_m_lmd" in figures) is (not row.endswith(("again", "true motion")))
    assert not {"psnr", "ssim", "lpips"} & content["videos"]["true frames"].keys()
    assert content["not_measured"] == "FID, CSIM, SyncNet, tracked faces"
    assert "no clip was tracked (--tracked-clips)" in " ".join(result.stdout.split())
    assert "teacher: true motion" in (tmp_path / "evaluation.html").read_text()
    judged = {"--lpips": squared, "--fid": save_colours(tmp_path / "fid.onnx")}
    judged |= {"--csim": save_pixels(tmp_path / "csim.onnx"), "--syncnet": save_sync(tmp_path)}
    judged_by = [part for pair in judged.items() for part in pair]
    result = emohead(*asked, "--out", tmp_path / "judged", *judged_by, "--tracked-clips", 0)
    assert result.returncode == 0, result.stderr
    judged_content = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    for row, figures in judged_content["videos"].items():
        assert {"csim", "sync_net_confidence"} <= figures.keys()
        assert ("fid" in figures) is (row != "true frames")
        before = {name: value for name, value in content["videos"][row].items() if "emotion_accuracy" not in name}
        assert figures.items() >= before.items(), "what one judge says does not hang on the others"
        assert "emotion_accuracy" in figures, "in the talker's own emotion space, where no teacher is given"
    assert judged_content["not_measured"] == "tracked faces"
    motion = export_of(demo, "motion")
    refused(
        emohead("evaluate", motion, demo / "data", "--emotion", teachers[1], "--lpips", squared), "--lpips", "motion"
    )
    refused(emohead(*asked, *teachers[:2]), "--teacher: these are exports of emotion; give those of")
    refused(emohead(*asked, *teachers, *teachers[4:]), "--teacher", "one each")
    refused(emohead("evaluate", export_of(demo, "face"), demo / "data", *teachers), "--teacher", "face")
    refused(emohead(*asked, "--csim", tmp_path / "gone.onnx"), "gone.onnx", "no such file")


def export_of(demo: Path, stage: str) -> Path:
    return demo / stage / "export" / f"{stage}.safetensors"


def infer(demo: Path, out: Path, **changed: object):
    options = {"portrait": demo / "portrait.png", "speech": demo / "speech.wav", "text": "sad", "out": out} | changed
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", value)]
    return emohead("infer", demo / "talker.safetensors", "--no-crop", *given)


def test_emotions_can_be_mixed(demo: Path, tmp_path: Path):
    out = tmp_path / "video.mp4"
    result = infer(demo, out, audio=demo / "speech.wav", weights="2,0.5", intensity=1.5)
    assert result.returncode == 0, result.stderr
    with av.open(str(out)) as video:
        assert "2 x sad + 0.5 x speech.wav, intensity 1.5" in video.metadata["comment"]


def test_infer_refuses_wrong_input(demo: Path, tmp_path: Path):
    out = tmp_path / "video.mp4"
    empty, noise = tmp_path / "empty.wav", tmp_path / "noise.wav"
    soundfile.write(empty, np.zeros(0, np.float32), SAMPLE_RATE)
    noise.write_bytes(b"RIFF but no sound")
    refused(infer(demo, out, portrait=tmp_path / "nobody.png"), "nobody.png")
    refused(infer(demo, out, portrait=noise), "noise.wav")
    refused(infer(demo, out, speech=tmp_path / "silence.wav"), "silence.wav")
    refused(infer(demo, out, speech=empty), "empty.wav")
    refused(infer(demo, out, speech=noise), "noise.wav")
    refused(infer(demo, out, text=None), "--text")
    refused(infer(demo, out, audio=demo / "speech.wav", weights="1"), "--weights", "2")
    refused(infer(demo, out, weights="much"), "--weights much")
    refused(infer(demo, out, device="gpus"), "--device gpus", "auto, cpu or cuda")
    refused(infer(demo, tmp_path / "video.gif"), "video.gif")
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".wav",)], "nothing half-written"


def test_train_refuses_wrong_input(demo: Path, tmp_path: Path):
    run = f"run={tmp_path / 'run'}"
    refused(emohead("train", "emotions"), "emotions")
    refused(emohead("train", "motion", "-c", "motion-debug", "network.dimm=3"), "network.dimm", "network.dim")
    refused(emohead("train", "emotion", "-c", "emotion-debug", f"data.shards=[{tmp_path}]", run), str(tmp_path))
    refused(emohead("train", "motion", "-c", "motion-debug", f"data.shards=[{demo / 'data'}]", run), "emotion=")
    face = ("train", "face", "-c", "face-debug", "trainer.precision=32-true", run)
    refused(emohead(*face, f"data.shards=[{demo / 'data'}]"), "data.size: frames of 64", "network.size is 128")
    assert not (tmp_path / "run").exists()


def test_tars_of_another_version_are_refused(demo: Path, tmp_path: Path):
    manifest = json.loads((demo / "data" / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    refused(emohead("shards", "info", tmp_path), "manifest.json", "99")
