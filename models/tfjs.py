"""Weights in the format of TensorFlow.js, as npm packages hold them: a manifest in JSON, and numbers laid end to end.

Layouts are TensorFlow's: filters (H, W, in, out), depthwise ones (H, W, in, 1).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UserError


def read_weights(manifest: Path) -> dict[str, Tensor]:
    """Tensors by name, in float32; those that are no numbers of this kind are left out.

    manifest: a `weights_manifest.json`, or a `model.json` that holds one. Raises UserError if a file is missing or
    damaged.
    """
    try:
        content = json.loads(manifest.read_text())
        groups = content if isinstance(content, list) else content["weightsManifest"]
        found = {}
        for group in groups:
            data, at = b"".join((manifest.parent / name).read_bytes() for name in group["paths"]), 0
            for weight in group["weights"]:
                found[weight["name"]], at = _read(weight, data, at)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(manifest, f"no weights of TensorFlow.js ({' '.join(str(error).split())[:100]})") from None
    return {name: torch.from_numpy(values) for name, values in found.items() if values is not None}


def _read(weight: dict[str, Any], data: bytes, at: int) -> tuple[np.ndarray | None, int]:
    """One tensor, and where the next one begins. Quantised ones are stored as whole numbers or in float16."""
    shape, quantised = weight["shape"], weight.get("quantization", {})
    stored = np.dtype(quantised.get("dtype", weight["dtype"]))
    count = int(np.prod(shape))
    values = np.frombuffer(data, stored, count, at).reshape(shape)
    at += count * stored.itemsize
    if weight["dtype"] != "float32":
        return None, at
    values = values.astype(np.float32)
    if "scale" in quantised:
        values = values * np.float32(quantised["scale"]) + np.float32(quantised["min"])
    return values, at


def convolve(x: Tensor, filters: Tensor, stride: int = 1, *, depthwise: bool = False) -> Tensor:
    """TensorFlow's convolution with `same` padding: (B, C, H, W)."""
    weight = filters.permute(2, 3, 0, 1) if depthwise else filters.permute(3, 2, 0, 1)
    x = padded(x, weight.shape[2], weight.shape[3], stride)
    return F.conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)


def padded(x: Tensor, kernel_height: int, kernel_width: int, stride: int, value: float = 0.0) -> Tensor:
    """`same` padding of (B, C, H, W), whose odd pixel lies right and below."""
    high, wide = _missing(x.shape[2], kernel_height, stride), _missing(x.shape[3], kernel_width, stride)
    return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2), value=value)


def _missing(size: int, kernel: int, stride: int) -> int:
    """Pixels that a side lacks for ceil(size / stride) places of a kernel."""
    return max(0, (-(-size // stride) - 1) * stride + kernel - size)
