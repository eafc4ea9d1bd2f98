"""Names and forms that those who write a data set and those who read it agree on, see writer.py."""

import base64
import io
from pathlib import Path

import numpy as np

CODECS = ("mjpeg", "h264")
MEMBERS = ("mp4", "flac", "motion.npy", "identity.npy", "landmarks.npy", "json")


def index_path(shard: Path) -> Path:
    """train-000000.tar -> train-000000.index.json"""
    return shard.with_suffix(".index.json")


def unpack_ranges(packed: str) -> np.ndarray:
    """The text that `pack_ranges` made -> uint32 (T, 3); raises ValueError or TypeError."""
    return np.frombuffer(base64.b64decode(packed), "<u4").reshape(-1, 3)


def packed_length(frames: int) -> int:
    """Characters that `pack_ranges` makes of so many frames: 12 bytes each, and four characters for three bytes."""
    return 16 * frames


def load_npy(data: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file; raises ValueError on damaged ones."""
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python code: damaged, it raises all that a parser can
        raise ValueError(f"no array of numbers ({type(error).__name__})") from None
