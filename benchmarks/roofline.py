"""What a training step asks of a GPU, counted without one, and how fast an H100 could at best do it.

    python benchmarks/roofline.py             prints the table
    python benchmarks/roofline.py --results   and puts it into docs/results.md

A step of each stage is done on the device `meta`, whose tensors have shapes and no numbers; every operator is counted.
Its shortest time on a GPU is that of its multiply-adds or that of its bytes, whichever is longer: products and
convolutions at the rate of bfloat16, every tensor read and written once in two bytes a number, four for optimizers.
The other limit is Python, which starts one kernel after another: LAUNCH is what an operator costs it. No figure was
measured here; a real step takes longer than the longer of the two.

The memory is that of float32: weights, those of teachers too, Adam's two moments, gradients, and what is alive at the
peak of the step. It is counted at two batches; the batch that fills a GPU follows from the difference.
"""

import argparse
import contextlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from emohead.datamodules.batch import Batch, made_up_batch
from emohead.trainers.engines.late import Late
from emohead.trainers.engines.plain import LossScale, PlainEngine
from emohead.trainers.stage import Stage
from gpu_rows import BATCHES, FRAMES, STAGES
from memory import Memory
from overhead import make_stage
from tables import put_into_results
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

H100 = {"flops": 989e12, "bytes": 3.35e12}  # a second: dense bfloat16, memory (NVIDIA's data sheet, SXM)
LAUNCH = 6e-6  # seconds of Python and PyTorch an operator, with autograd
GPU_BYTES = 80e9
META = torch.device("meta")
WITHOUT_KERNEL = (
    *("view", "expand", "permute", "transpose", "slice", "select", "detach", "unsqueeze", "squeeze", "split", "unbind"),
    *("as_strided", "alias", "t.default", "empty", "_unsafe_view", "lift_fresh", "chunk"),
)


class Roofline(TorchDispatchMode):
    """Counts operators, their multiply-adds and bytes, and the shortest time that each can take."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = self.seconds = 0.0
        self.kernels: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__
        if name.startswith(WITHOUT_KERNEL):
            return out
        count = flop_registry.get(func._overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
        numbers = sum(leaf.numel() for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor))
        self.add(name, flops, numbers * (4 if "foreach" in name else 2))
        return out

    def add(self, name: str, flops: float, moved: float) -> None:
        self.kernels[name] += 1
        self.flops += flops
        self.bytes += moved
        self.seconds += max(flops / H100["flops"], moved / H100["bytes"])


class ShapesOnly(PlainEngine):
    """An engine whose norms nobody can read. What a GPU does with all weights at once is counted, for `meta` cannot."""

    counted: Roofline | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.moments = [torch.zeros_like(p) for p in self.parameters for _ in range(2)]  # Adam's, which take memory

    def step(self) -> Late:
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.averaging.finish()
        if self.counted is not None:
            numbers = sum(p.numel() for p in self.parameters)
            self.counted.add("foreach_norm", 0, 4 * numbers)
            self.counted.add("foreach_mul_", 0, 4 * 2 * numbers)
            self.counted.add("fused_adam", 0, 4 * 7 * numbers)  # reads weight, gradient, two moments; writes three
        self.optimizer.zero_grad(set_to_none=True)
        return Late(1.0)


def pixels_of(size: str) -> int:
    return 128 if size == "debug" else 256


def give_engines(stage: Any) -> None:
    """Make a stage on `meta` ready for its steps."""
    stage.to(META).train().on_fit_start()
    stage.num_batches = 1  # no gradient penalty, which comes in one step of sixteen
    for (key, module), optimizer in zip(stage.trained().items(), stage.configure_optimizers(), strict=True):
        stage.engines[key] = ShapesOnly(module, optimizer, clip_norm=1.0, scale=LossScale(False))


def meta_batch(name: str, size: str, count: int) -> Batch:
    batch = made_up_batch(name, batch_size=count, size=pixels_of(size), num_frames=FRAMES[name])
    return {key: value.to(META) if isinstance(value, Tensor) else value for key, value in batch.items()}


def without_autocast() -> None:
    """It knows no `meta`."""
    torch.autocast = lambda *_, **options: contextlib.nullcontext()  # type: ignore[assignment, misc]


def count(name: str, size: str, folder: Path) -> tuple[Roofline, list[int]]:
    """One training step of a stage of a shipped size; peak bytes at its batch and at half of it."""
    peaks = []
    with Memory("meta") as memory:
        stage: Stage = make_stage(name, folder, size=size, pixels=pixels_of(size))
        give_engines(stage)
        stage.training_step(meta_batch(name, size, BATCHES[name]), 0)  # what is kept from step to step is there then
        for batch_size in (BATCHES[name], BATCHES[name] // 2):
            batch = meta_batch(name, size, batch_size)
            memory.begin()
            stage.training_step(batch, 0)
            peaks.append(memory.peak)
    ShapesOnly.counted = Roofline()
    batch = meta_batch(name, size, BATCHES[name])
    with ShapesOnly.counted as counted:
        stage.training_step(batch, 0)
    ShapesOnly.counted = None
    return counted, peaks


def filling(peaks: list[int], batch_size: int) -> int:
    """The batch whose peak is all that a GPU has."""
    sample = (peaks[0] - peaks[1]) / (batch_size - batch_size // 2)
    return int(batch_size + (GPU_BYTES - peaks[0]) / sample)


def rows() -> list[str]:
    lines = [
        "| stage | size | batch | TFLOP | GB moved | operators | GPU, at best | Python | samples/s, at best "
        "| peak memory | batch that fills 80 GB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    without_autocast()
    with tempfile.TemporaryDirectory() as folder:
        for size in ("debug", "base"):
            for name in STAGES:
                if name != "distill":
                    stage = make_stage(name, Path(folder), size=size, pixels=pixels_of(size))
                    stage.export(Path(folder) / f"{name}.safetensors", {})
                found, peaks = count(name, size, Path(folder))
                operators = found.kernels.total()
                limit = max(found.seconds, operators * LAUNCH)
                lines.append(
                    f"| `{name}` | {size} | {BATCHES[name]} | {found.flops / 1e12:.2f} | {found.bytes / 1e9:.1f} "
                    f"| {operators:,} | {found.seconds * 1e3:.1f} ms | {operators * LAUNCH * 1e3:.1f} ms "
                    f"| {BATCHES[name] / limit:,.0f} | {peaks[0] / 1e9:.2f} GB | {filling(peaks, BATCHES[name]):,} |"
                )
                print(lines[-1], flush=True)
                print("    ", ", ".join(f"{key} {times}" for key, times in found.kernels.most_common(8)), flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    table = "\n".join(rows())
    if options.results:
        put_into_results("roofline", table)


if __name__ == "__main__":
    main()
