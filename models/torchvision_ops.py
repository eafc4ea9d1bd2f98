"""Makes torchvision importable if its compiled operators do not work, as beside a torch built for other hardware.

Lightning (through torchmetrics), open_clip and transformers import torchvision, but use only its Python part.
"""

import importlib.util
import sys
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []  # a Library undoes its definitions when it is collected


def declare_torchvision_ops() -> None:
    """Make a torchvision without working compiled operators importable."""
    absent = importlib.util.find_spec("torchvision") is None  # inference needs none
    if absent or _declared or "torchvision" in sys.modules or _has_torchvision_ops():
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


def _has_torchvision_ops() -> bool:
    """Load the compiled operators as torchvision would; a build for other hardware fails here, not in its import."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    for path in Path(spec.origin).parent.glob("_C*"):  # _C.so, from torchvision 0.29 on _C_stable.so
        try:
            torch.ops.load_library(str(path))
        except OSError:
            continue
    return hasattr(torch.ops.torchvision, "nms")
