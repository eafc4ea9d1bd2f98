"""A rank's part of a checkpoint: copied out of the way of the training, then written and hashed in one pass.

The file is safetensors, https://huggingface.co/docs/safetensors/index#format: the length of a header, the header, and
the values of one tensor after the other. A tensor of it is a range of values of a whole one, flattened.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ...models.files import writing
from ..engines.shares import Share

CHUNK = 16 * 2**20  # bytes that are hashed and written at once
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Piece(NamedTuple):
    """The place of a tensor of a file in a whole one."""

    shape: list[int]  # of the whole
    start: int
    numel: int


class Part(NamedTuple):
    header: bytes
    values: np.ndarray  # uint8
    pieces: dict[str, Piece]


class HostMemory:
    """CPU memory for a part, pinned if values come from a GPU. It is kept: allocating it takes as long as copying."""

    def __init__(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)

    def hold(self, shares: dict[str, Share]) -> Part:
        """A copy of the values, which lies here until the next call."""
        size = sum(share.values.nbytes for share in shares.values())
        on_gpu = any(share.values.is_cuda for share in shares.values())
        if len(self.bytes) < size:
            self.bytes = torch.empty(0, dtype=torch.uint8)  # the old memory is let go first
            self.bytes = torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
        header: dict[str, Any] = {}
        end = 0
        # The largest types come first, so that each tensor lies at a multiple of its type's size.
        for name in sorted(shares, key=lambda name: (-shares[name].values.element_size(), name)):
            values = shares[name].values
            start, end = end, end + values.nbytes
            self.bytes[start:end].view(values.dtype).copy_(values.reshape(-1), non_blocking=True)
            header[name] = {"dtype": TYPES[values.dtype], "shape": [values.numel()], "data_offsets": [start, end]}
        if on_gpu:
            torch.cuda.synchronize()
        pieces = {n: Piece(list(share.shape), share.start, share.values.numel()) for n, share in shares.items()}
        return Part(header_of(header), self.bytes[:size].numpy(), pieces)


def header_of(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_part(path: Path, part: Part) -> dict[str, Any]:
    """Have a part on the disk -> its entry in a manifest. The bytes depend on the part alone."""
    digest = hashlib.sha256()
    with writing(path), open(path, "wb") as file:
        chunks = (part.values[start : start + CHUNK].data for start in range(0, len(part.values), CHUNK))
        pieces: Iterator[bytes | memoryview] = chain([part.header], chunks)
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    size = len(part.header) + len(part.values)
    return {"name": path.name, "bytes": size, "sha256": digest.hexdigest(), "pieces": part.pieces}
