"""Advice for when memory runs out."""

from typing import Any

import torch

from ..engines.precision import settled

MARKS = (
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    # cuBLAS, cuDNN and NCCL allocate their workspaces late, and say it in words of their own.
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "failed to cuda calloc",
)


def explain(error: BaseException, *, stage: str, config: Any, size: int) -> str | None:
    """One line that says what did not fit and what to lower, in this order; None for other errors.

    `size` is that of the frames in pixels.
    """
    running_out = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not running_out and not (isinstance(error, RuntimeError) and any(mark in str(error).lower() for mark in MARKS)):
        return None
    c = config.trainer
    ranks = c.nodes * c.devices
    part = config.data.batch_size // (ranks * c.accumulate)
    return (
        f"out of memory in stage {stage}: {part} samples at once on each of {ranks} ranks, frames of {size} pixels, "
        f"{c.precision}{_taken()}; {_remedies(stage, config, part, ranks)}"
    )


def _taken() -> str:
    if not torch.cuda.is_available():
        return ""
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:  # after some errors a GPU answers no more
        return ""
    return f", {(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB taken"


def _remedies(stage: str, config: Any, part: int, ranks: int) -> str:
    c = config.trainer
    remedies = []
    if part > 1:
        note = " (the contrast is then within each part)" if stage == "emotion" else ""
        remedies.append(f"trainer.accumulate={c.accumulate * 2} for the same batch in more parts{note}")
    if c.precision == "32-true" and settled("auto", c.accelerator) == "bf16-mixed":
        remedies.append("trainer.precision=bf16-mixed")
    if not c.recompute:
        remedies.append("trainer.recompute=true")
    if ranks > 1 and (c.strategy == "ddp" or c.zero_stage < 3):
        remedies.append(f"trainer.strategy=deepspeed trainer.zero_stage={c.zero_stage if c.strategy == 'ddp' else 3}")
    remedies.append("more GPUs, or a smaller data.batch_size, data.size or network")
    return "try " + ", then ".join(remedies)
