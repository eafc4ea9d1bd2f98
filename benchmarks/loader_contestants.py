"""The contestants of benchmarks/loader.py. Each is a function that makes some samples and returns how many.

`stream` is the product; `limit` decodes the same kind of frames from bytes in memory and does nothing else; the others
are what people use instead.
"""

import gc
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import lmdb
import numpy as np
import simplejpeg
import torch
import webdataset
from emohead.datamodules.config import DataConfig
from emohead.datamodules.dataset.clip import StoredClip
from emohead.datamodules.dataset.decode import DECODE, decode_npy, decode_speech
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.module import TalkingFaceData
from emohead.datamodules.stream.examples import draw_pair, motion_window
from loader_data import NUM_CLIPS, NUM_SAMPLES, jpegs_of
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from torchvision import transforms

BATCH = 8
WINDOW = 50  # frames of speech and motion of a sample
Contestant = Callable[[], int]


def stream(stage: str, folder: Path, decoder: str = "pyav") -> Contestant:
    """Batches of the product, loaded in this process."""
    batches = iter(open_data(stage, folder, decoder=decoder).train_dataloader())
    next(batches)
    gc.freeze()  # as its workers do

    def take() -> int:
        return len(next(batches)["key"])

    return take


def open_data(stage: str, folder: Path, *, decoder: str = "pyav", workers: int = 0) -> TalkingFaceData:
    config = DataConfig(
        shards=[str(folder)] * (NUM_SAMPLES // NUM_CLIPS),
        batch_size=BATCH,
        window_frames=WINDOW,
        num_workers=workers,
        decoder=decoder,
    )
    return TalkingFaceData(stage, config)


def clips_of(folder: Path) -> list[StoredClip]:
    """All clips of a set, so that a limit goes through as much memory as those who read the set."""
    reader = ClipReader(folder)
    return [reader.clip(key) for key in reader.keys("train")]


# ---------------------------------------------------------------------------------------------- limits


def face_limit(folder: Path, decoder: str = "pyav") -> Contestant:
    """Two random frames of a clip by the bare decoder: of JPEGs in memory, or of an mp4 in memory."""
    clips, rng = clips_of(folder), np.random.default_rng(0)
    if ClipReader(folder).manifest.codec == "mjpeg":
        jpegs = [jpegs_of(clip) for clip in clips]

        def decode(number: int, index: int, other: int) -> None:
            simplejpeg.decode_jpeg(jpegs[number][index], "RGB")
            simplejpeg.decode_jpeg(jpegs[number][other], "RGB")
    else:
        videos = [clip.member("mp4") for clip in clips]

        def decode(number: int, index: int, other: int) -> None:
            DECODE[decoder](videos[number], [index, other])

    def take() -> int:
        for _ in range(BATCH):
            number = int(rng.integers(len(clips)))
            decode(number, *draw_pair(clips[number].num_frames, rng))
        return BATCH

    return take


def packet_limit(folder: Path) -> Contestant:
    """Two random frames of H.264 with no container at all: packets in memory, from the key frame on."""
    clips, rng = clips_of(folder), np.random.default_rng(0)
    packets, decoders = [], []
    for clip in clips:
        with av.open(io.BytesIO(clip.member("mp4"))) as container:
            context = container.streams.video[0].codec_context
            decoders.append(av.CodecContext.create("h264", "r"))
            decoders[-1].extradata, decoders[-1].thread_count = context.extradata, 1
            packets.append([(bytes(p), p.is_keyframe) for p in container.demux(video=0) if p.size])

    def take() -> int:
        for _ in range(BATCH):
            number = int(rng.integers(len(clips)))
            for index in draw_pair(clips[number].num_frames, rng):
                start = max(i for i in range(index + 1) if packets[number][i][1])
                decoders[number].flush_buffers()
                frames: list[Any] = []
                for data, _ in packets[number][start : index + 1]:
                    frames += decoders[number].decode(av.Packet(data))
                (frames + decoders[number].decode(None))[-1].to_ndarray(format="rgb24")
        return BATCH

    return take


def window_limit(stage: str, folder: Path) -> Contestant:
    """What a window of `motion` or `emotion` is made of, read and decoded: no checks, no batch."""
    clips, rng = clips_of(folder), np.random.default_rng(0)
    names = ("flac", "json") + (("motion.npy", "identity.npy") if stage == "motion" else ())

    def take() -> int:
        for _ in range(BATCH):
            clip = clips[int(rng.integers(len(clips)))]
            file = os.open(clip.shard.address, os.O_RDONLY)
            frame, start = (int(n) for n in rng.integers(clip.num_frames - WINDOW + 1, size=2))
            offset, size, _ = clip.record["members"]["mp4"]
            ranges = clip.ranges()
            if ranges is not None:
                place, length, _ = ranges[frame].tolist()
                simplejpeg.decode_jpeg(os.pread(file, length, offset + place), "RGB")
            else:
                DECODE["pyav"](os.pread(file, size, offset), [frame])
            for name in names:
                place, length, _ = clip.record["members"][name]
                data = os.pread(file, length, place)
                if name == "flac":
                    decode_speech(data, start, WINDOW)
                elif name.endswith("npy"):
                    decode_npy(data)
            os.close(file)
        return BATCH

    return take


# ---------------------------------------------------------------------------------------------- what others use


def plain_webdataset(tar: Path) -> Contestant:
    """webdataset and decord as their pages show them: iterate the tar, open each video, take two frames."""
    import decord

    rng = np.random.default_rng(0)

    def sample(item: dict[str, Any]) -> dict[str, Any]:
        video = decord.VideoReader(io.BytesIO(item["mp4"]), num_threads=1)
        pair = draw_pair(len(video), rng)
        frames = torch.from_numpy(video.get_batch(list(pair)).asnumpy()).permute(0, 3, 1, 2)
        motion = np.load(io.BytesIO(item["motion.npy"]))
        windows = [torch.from_numpy(motion_window(motion, index).copy()) for index in pair]
        return {"source": frames[0], "target": frames[1], "source_motion": windows[0], "target_motion": windows[1]}

    dataset = webdataset.WebDataset(str(tar), shardshuffle=False).repeat().shuffle(16).map(sample)
    batches = iter(DataLoader(dataset, batch_size=2, num_workers=0))

    def take() -> int:
        return len(next(batches)["source"])

    return take


class JpegDataset(IterableDataset):
    """PIRenderer's reading: `data/vox_dataset.py` of RenYurui/PIRender, frames already at their size."""

    def __init__(self, folder: Path, keys: list[tuple[str, int]]) -> None:
        self.environment = lmdb.open(
            str(folder), max_readers=32, readonly=True, lock=False, readahead=False, meminit=False
        )
        self.keys, self.rng = keys, np.random.default_rng(0)
        half = (0.5, 0.5, 0.5)
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(mean=half, std=half, inplace=True)]
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            key, frames = self.keys[int(self.rng.integers(len(self.keys)))]
            pair = draw_pair(frames, self.rng)
            with self.environment.begin(write=False) as transaction:
                jpegs = [transaction.get(f"{key}-{index:07d}".encode()) for index in pair]
                motion = np.frombuffer(transaction.get(f"{key}-coeff_3dmm".encode()), np.float32).reshape(frames, -1)
            images = [self.transform(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs]
            windows = [torch.from_numpy(motion_window(motion, index).copy()) for index in pair]
            yield {"source": images[0], "target": images[1], "semantics": windows}


def lmdb_of_jpegs(folder: Path, packed: Path) -> Contestant:
    reader = ClipReader(packed)
    keys = [(key, reader.clip(key).num_frames) for key in reader.keys("train")]
    batches = iter(DataLoader(JpegDataset(folder, keys), batch_size=BATCH, num_workers=0))

    def take() -> int:
        return len(next(batches)["source"])

    return take
