"""How fast samples come from the tars, beside the limit of the decoders and beside what others do. One core, one run.

    pip install -e ".[bench]" && python benchmarks/loader.py --clips CLIPS --work DIR [--quick]

`--clips` is a folder of videos of talking faces (default: `shared/data/clips/hdtf` beside the checkout). They are
prepared at 512 pixels, cut to pieces of three seconds and packed again and again until there are 2,000 samples; each
store is made once below `--work` (some GB, which must fit into memory: what is measured is the loader, not the disk).

Every contestant runs in short rounds, in turn, and the median counts; seconds are those of the processor, so that other
work on the machine disturbs little. Contestants, in samples per second of one core:

    stream       batches of the `face` stage as training gets them: two random frames, 27 x D motion, landmarks
    decoder      the same frames by the bare decoder from bytes in memory: the limit
    webdataset   webdataset + decord, mp4 in ffmpeg's default GOP of 250, two random frames of each clip
    lmdb         an LMDB of JPEGs, read as PIRenderer does: PIL, resize, tensor in [-1, 1]
"""

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import lmdb
import numpy as np
import simplejpeg
import soundfile
import torch
import webdataset
from emohead.apps.progress import Follow
from emohead.datamodules.decode import DECODE
from emohead.datamodules.prepare import prepare_folder
from emohead.datamodules.reader import ClipReader
from emohead.datamodules.sample import MOTION_WINDOW, SAMPLES_PER_FRAME, Clip
from emohead.datamodules.shards import ShardWriter, encode_members, load_npy, npy_bytes
from emohead.datamodules.stream import DataConfig, TalkingFaceData
from PIL import Image
from rich.console import Console
from rich.table import Table

PIECE = 75  # frames
WINDOW = 50  # frames of speech and motion
BATCH = 8
QUALITY = {"mjpeg": 75}


# ---------------------------------------------------------------------------------------------- stores
def pieces(folder: Path, size: int) -> Iterator[Clip]:
    """The prepared clips in pieces, at `size` pixels."""
    reader = ClipReader(folder)
    for key in reader.keys(None):
        frames = reader.frames(key, size=size).transpose(0, 2, 3, 1)
        motion, landmarks, speech = reader.motion(key), reader.landmarks(key), reader.speech(key)
        for start in range(0, len(frames) - PIECE + 1, PIECE):
            span = slice(start, start + PIECE)
            info = replace(reader.info(key), key=f"{key}_{start:04d}", frames=PIECE, size=size, split="train")
            sound = speech[start * SAMPLES_PER_FRAME : (start + PIECE) * SAMPLES_PER_FRAME]
            scaled = (landmarks[span].astype(np.float32) * size / reader.manifest.size).astype(np.float16)
            yield Clip(info, np.ascontiguousarray(frames[span]), sound, motion[span], reader.identity(key), scaled)


def make_store(out: Path, prepared: Path, codec: str, size: int, samples: int) -> Path:
    """A data set of at least `samples` clips: every piece encoded once and written under many keys."""
    if not (out / "manifest.json").exists():
        made = [(clip.info.key, encode_members(clip, codec=codec, quality=QUALITY.get(codec)))
                for clip in pieces(prepared, size)]  # fmt: skip
        with ShardWriter(out, size=size, codec=codec) as writer:
            for number in range(samples):
                key, members = made[number % len(made)]
                named = f"{key}_{number // len(made):04d}"
                info = json.loads(members["json"]) | {"key": named}
                writer.write_members(named, members | {"json": json.dumps(info).encode()})
            writer.close(ClipReader(prepared).face_model)
    return out


def make_webdataset(out: Path, prepared: Path, size: int) -> Path:
    """A tar of mp4 at GOP 250 and the motion, as projects pack clips by default."""
    path = out / f"default-{size}.tar"
    if not path.exists():
        partial_path = out / f"default-{size}.partial"
        with webdataset.TarWriter(str(partial_path)) as writer:
            for clip in pieces(prepared, size):
                video = encode_default(clip.frames)
                writer.write({"__key__": clip.info.key, "mp4": video, "motion.npy": npy_bytes(clip.motion)})
        partial_path.replace(path)
    return path


def encode_default(frames: np.ndarray) -> bytes:
    """H.264 at libx264's own settings: GOP 250, B-frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("h264", rate=25)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def make_lmdb(out: Path, prepared: Path, size: int) -> Path:
    path = out / f"lmdb-{size}"
    if not path.exists():
        environment = lmdb.open(str(path), map_size=8 << 30)
        with environment.begin(write=True) as transaction:
            keys = []
            for clip in pieces(prepared, size):
                for index, frame in enumerate(clip.frames):
                    jpeg = simplejpeg.encode_jpeg(frame, quality=95, colorsubsampling="420")
                    transaction.put(f"{clip.info.key}-{index:07d}".encode(), jpeg)
                transaction.put(f"{clip.info.key}-motion".encode(), clip.motion.tobytes())
                keys.append(clip.info.key)
            transaction.put(b"keys", json.dumps(keys).encode())
        environment.close()
    return path


# ---------------------------------------------------------------------------------------------- contestants
Round = Callable[[int], int]  # samples wanted -> samples delivered


def stream(folder: Path, stage: str, decoder: str = "pyav") -> Round:
    config = DataConfig(shards=[str(folder)], batch_size=BATCH, num_workers=0, window_frames=WINDOW, decoder=decoder)
    batches = iter(TalkingFaceData(stage, config, seed=0).train_dataloader())

    def run(count: int) -> int:
        return sum(len(next(batches)["key"]) for _ in range(-(-count // BATCH)))

    return run


def bare_decoder(folder: Path, decoder: str = "pyav", held: int = 64) -> Round:
    """Two frames a sample, from videos that lie in memory; of Motion-JPEG only the bytes of the frames."""
    reader = ClipReader(folder, decoder)
    clips = [reader.clip(key) for key in reader.keys(None)[:held]]
    videos, ranges = [clip.member("mp4") for clip in clips], [clip.shard.ranges[clip.position] for clip in clips]
    rng = np.random.default_rng(0)

    def run(count: int) -> int:
        for number in range(count):
            video, spans = videos[number % held], ranges[number % held]
            wanted = [int(i) for i in rng.choice(PIECE, 2, replace=False)]
            if spans is None:
                DECODE[decoder](video, indices=wanted)
            else:
                for i in wanted:
                    start, size = int(spans[i][0]), int(spans[i][1])
                    simplejpeg.decode_jpeg(video[start : start + size], "RGB")
        return count

    return run


def windows_limit(folder: Path, stage: str, held: int = 64) -> Round:
    """What `motion` and `emotion` cannot do without: read and decode one frame, the window of speech, the motion."""
    reader = ClipReader(folder)
    clips = [reader.clip(key) for key in reader.keys(None)[:held]]
    tars = {clip.shard.address: os.open(clip.shard.address, os.O_RDONLY) for clip in clips}
    rng = np.random.default_rng(0)

    def run(count: int) -> int:
        for number in range(count):
            clip = clips[number % held]
            members, spans, tar = clip.record["members"], clip.shard.ranges[clip.position], tars[clip.shard.address]
            assert spans is not None
            start, size = (int(value) for value in spans[rng.integers(PIECE)][:2])
            simplejpeg.decode_jpeg(os.pread(tar, size, members["mp4"][0] + start), "RGB")
            flac = os.pread(tar, members["flac"][1], members["flac"][0])
            with soundfile.SoundFile(io.BytesIO(flac)) as file:
                file.seek(int(rng.integers(PIECE - WINDOW)) * SAMPLES_PER_FRAME)
                file.read(WINDOW * SAMPLES_PER_FRAME, dtype="float32")
            if stage == "motion":
                load_npy(os.pread(tar, members["motion.npy"][1], members["motion.npy"][0]))
        return count

    return run


def webdataset_decord(tar: Path) -> Round:
    import decord

    rng = np.random.default_rng(0)

    def sample(item: dict[str, Any]) -> dict[str, Any]:
        video = decord.VideoReader(io.BytesIO(item["mp4"]), num_threads=1)
        wanted = rng.choice(len(video), 2, replace=False).tolist()
        images = torch.from_numpy(video.get_batch(wanted).asnumpy()).permute(0, 3, 1, 2)
        motion = torch.from_numpy(load_npy(item["motion.npy"]))
        return {"images": images, "motion": motion[:MOTION_WINDOW]}

    url = str(tar)
    items = iter(webdataset.WebDataset(url, shardshuffle=False, empty_check=False).repeat().shuffle(16).map(sample))

    def run(count: int) -> int:
        for _ in range(count):
            next(items)
        return count

    return run


def lmdb_jpeg(path: Path, size: int) -> Round:
    transaction = lmdb.open(str(path), readonly=True, lock=False, readahead=False).begin(buffers=False)
    keys, rng = json.loads(transaction.get(b"keys")), np.random.default_rng(0)

    def run(count: int) -> int:
        for _ in range(count):
            key, wanted = keys[rng.integers(len(keys))], rng.choice(PIECE, 2, replace=False)
            for index in wanted:
                image = Image.open(io.BytesIO(transaction.get(f"{key}-{index:07d}".encode()))).convert("RGB")
                pixels = np.asarray(image.resize((size, size)), np.float32)
                torch.from_numpy(pixels).permute(2, 0, 1).div(127.5).sub(1)
            np.frombuffer(transaction.get(f"{key}-motion".encode()), np.float32)
        return count

    return run


# ---------------------------------------------------------------------------------------------- measuring
def measure(contestants: dict[str, Round], rounds: int, seconds: float) -> dict[str, float]:
    """Samples per second of processor time, the median of rounds that take turns."""
    counts, found = {}, {name: [] for name in contestants}
    for name, run in contestants.items():  # warm, and how many samples a round should take
        run(BATCH)
        started = time.process_time()
        run(2 * BATCH)
        counts[name] = max(BATCH, int(2 * BATCH * seconds / max(time.process_time() - started, 1e-3)))
    for _ in range(rounds):
        for name, run in contestants.items():
            started = time.process_time()
            found[name].append(run(counts[name]) / (time.process_time() - started))
    return {name: statistics.median(values) for name, values in found.items()}


def step_times(folder: Path, stage: str, steps: int) -> tuple[float, float]:
    """Seconds of a step of about 300 ms of one thread, on batches from two workers, and on one held in memory."""
    config = DataConfig(shards=[str(folder)], batch_size=BATCH, num_workers=2, window_frames=WINDOW)
    batches = iter(TalkingFaceData(stage, config, seed=0).train_dataloader())
    held = next(batches)
    a = torch.randn(1024, 1024)

    def step(batch: Any) -> None:
        images = batch["portrait"] if "portrait" in batch else batch["image"]
        images.float().mean()
        for _ in range(repeats):
            a @ a

    repeats = 1
    started = time.monotonic()
    for _ in range(20):
        a @ a
    repeats = max(1, int(0.3 * 20 / (time.monotonic() - started)))
    real, memory = [], []
    for _ in range(steps):
        started = time.monotonic()
        step(next(batches))
        real.append(time.monotonic() - started)
        started = time.monotonic()
        step(held)
        memory.append(time.monotonic() - started)
    return statistics.median(real), statistics.median(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--clips", type=Path, default=Path(os.environ.get("EMOHEAD_DATA", beside)) / "clips" / "hdtf")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    samples, rounds, seconds = (200, 3, 0.3) if options.quick else (2_000, 9, 1.0)
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    prepared = work / "prepared"
    if not (prepared / "manifest.json").exists():
        with Follow() as follow:
            prepare_folder(options.clips, prepared, size=512, codec="mjpeg", workers=2, progress=follow)

    console, results = Console(width=110), []
    table = Table(title=f"samples per second of one core, {samples} samples, frames of one stored size")
    for column in ("stage", "size", "store", "samples/s", "limit", "share of the limit"):
        table.add_column(column, justify="left" if column in ("stage", "store") else "right")

    def add(stage: str, size: int, store: str, value: float, limit: float | None) -> None:
        results.append({"stage": stage, "size": size, "store": store, "samples_per_second": value, "limit": limit})
        share = "" if limit is None else f"{value / limit:.0%}"
        table.add_row(stage, str(size), store, f"{value:.0f}", "" if limit is None else f"{limit:.0f}", share)

    for size in (512, 256):
        stores = {c: make_store(work / f"{c}-{size}", prepared, c, size, samples) for c in ("mjpeg", "h264")}
        default, jpegs = make_webdataset(work, prepared, size), make_lmdb(work, prepared, size)
        contestants: dict[str, Round] = {}
        for codec, folder in stores.items():
            for decoder in ("pyav",) if codec == "mjpeg" else ("pyav", "decord"):
                contestants[f"{codec} {decoder}"] = stream(folder, "face", decoder)
                contestants[f"{codec} {decoder} limit"] = bare_decoder(folder, decoder)
        contestants |= {"webdataset": webdataset_decord(default), "lmdb": lmdb_jpeg(jpegs, size)}
        found = measure(contestants, rounds, seconds)
        add("face", size, "mjpeg", found["mjpeg pyav"], found["mjpeg pyav limit"])
        for decoder in ("pyav", "decord"):
            add("face", size, f"h264, {decoder}", found[f"h264 {decoder}"], found[f"h264 {decoder} limit"])
        add("face", size, "webdataset + decord, GOP 250", found["webdataset"], None)
        add("face", size, "LMDB of JPEGs, PIL", found["lmdb"], None)
        for stage in ("motion", "emotion"):
            pair = {"own": stream(stores["mjpeg"], stage), "limit": windows_limit(stores["mjpeg"], stage)}
            found = measure(pair, rounds, seconds)
            add(stage, size, "mjpeg", found["own"], found["limit"])
    console.print(table)
    steps = {}
    for stage in ("emotion", "motion", "face"):
        real, memory = step_times(work / "mjpeg-256", stage, 5 if options.quick else 25)
        steps[stage] = {"seconds": real, "seconds_in_memory": memory}
        console.print(f"{stage}: a step takes {real:.3f} s on data, {memory:.3f} s on a batch in memory: "
                      f"{real / memory - 1:+.1%}")  # fmt: skip
    (work / "loader.json").write_text(json.dumps({"rates": results, "steps": steps}, indent=1) + "\n")


if __name__ == "__main__":
    main()
