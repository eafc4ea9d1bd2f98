"""Rows of the acceptance run that ask how fast a GPU is, and what holds it up."""

import contextlib
import io
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from emohead.models.channels_last import sample_rows
from emohead.models.flow import kernel_works, pixel_centres
from emohead.trainers.engines.batch_norm import GlobalBatchNorm2d
from emohead.trainers.engines.large_blocks import compile_blocks
from emohead.trainers.engines.precision import use_tf32
from emohead.trainers.run.meter import WorkCounter, peak_rate
from gpu_rows import BATCHES, Machine, run_row, tell
from pirenderer import COEFFICIENTS, WINDOW, PIRendererShapes
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

TOP = 15  # operators of a profile


def ceilings(machine: Machine, words: list[str]) -> None:
    """The fastest that this device multiplies and copies."""
    size, device = 512 if machine.tiny else 8192, machine.device
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("TF32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        use_tf32(tf32)
        a = torch.randn(size, size, device=device, dtype=dtype)
        tell(f"product in {name}", tflops=2 * size**3 / machine.seconds(lambda a=a: a @ a, machine.steps) / 1e12)
    numbers = torch.empty(2**20 if machine.tiny else 2**28, device=device)
    other = torch.empty_like(numbers)
    tell("copy on the device", gb_s=2 * numbers.nbytes / machine.seconds(lambda: other.copy_(numbers), 10) / 1e9)
    host = torch.empty(numbers.shape, pin_memory=device.type == "cuda")
    copy = machine.seconds(lambda: numbers.copy_(host, non_blocking=True), 5)
    tell("copy from pinned memory", gb_s=host.nbytes / copy / 1e9)


def steps(machine: Machine, words: list[str]) -> None:
    """Training steps: STAGE PRECISION [times=N] [zero=N] [compile] [key=value ...]; times: of the usual batch."""
    name, precision, *rest = words
    options = dict(word.split("=", 1) for word in rest if word.startswith(("times=", "zero=")))
    overrides = [word for word in rest if "=" in word and word.split("=")[0] not in options]
    use_tf32(True)
    stage: Any = machine.stage(name, f"trainer.precision={precision}", *overrides)
    if "zero" in options:
        machine.join()
    machine.engines(stage, int(options["zero"]) if "zero" in options else None)
    batch = machine.batch(name, (2 if machine.tiny else BATCHES[name]) * int(options.get("times", 1)))

    def step() -> None:
        stage.training_step(batch, 0)
        stage.num_batches += 1

    step()
    stage.num_batches = 1  # no gradient penalty, which comes in one step of sixteen
    with WorkCounter() as counter:
        step()
    if "compile" in rest:
        for network in stage.trained().values():
            compile_blocks(network)
    stage.num_batches = 1
    seconds, count = machine.seconds(step, machine.steps), len(batch["key"])
    flops = counter.get_total_flops()
    tell(
        f"{name}, {precision}, batch {count}" + "".join(f", {word}" for word in rest if not word.startswith("times=")),
        samples_s=count / seconds,
        ms=seconds * 1e3,
        mfu=flops / seconds / peak_rate(machine.device, precision),
        gib=machine.peak_gib(),
    )


def yardstick(machine: Machine, words: list[str]) -> None:
    """Training images a second at 256 pixels: layers of PIRenderer's shapes, in the same precision and batch."""
    count, device = 1 if machine.tiny else BATCHES["face"], machine.device
    network = PIRendererShapes().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    size = 64 if machine.tiny else 256
    portrait, motion = (
        torch.rand(count, 3, size, size, device=device),
        torch.rand(count, COEFFICIENTS, WINDOW, device=device),
    )
    portrait = portrait.to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = (network(portrait, motion) - portrait).abs().mean()
        loss.backward()
        optimizer.step()

    seconds = machine.seconds(step, machine.steps, warm_up=1)
    tell(
        f"PIRenderer's shapes, bf16, batch {count}", samples_s=count / seconds, ms=seconds * 1e3, gib=machine.peak_gib()
    )


def waits(machine: Machine, words: list[str]) -> None:
    """Places in a step where Python waits for the GPU, and the operators that take most of its time."""
    (name,) = words
    stage: Any = machine.engines(machine.stage(name, "trainer.precision=bf16-mixed"))
    batch = machine.batch(name)
    for number in range(3):
        stage.training_step(batch, 0)
        stage.num_batches = number + 1
    with warnings.catch_warnings(record=True) as caught, waits_shown(machine):
        warnings.simplefilter("always")
        stage.training_step(batch, 0)
    places = sorted({f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)})
    tell(f"{name}: waits in a step", count=len(places), places=places)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if machine.device.type == "cuda" else [])]
    with profile(activities=kinds) as profiled, contextlib.redirect_stderr(io.StringIO()):
        stage.training_step(batch, 0)
        machine.wait()
    key = "self_device_time_total" if machine.device.type == "cuda" else "self_cpu_time_total"
    found = sorted(profiled.key_averages(), key=lambda event: -getattr(event, key))[:TOP]
    tell(f"{name}: longest operators, ms", **{event.key: getattr(event, key) / 1e3 for event in found})


@contextlib.contextmanager
def waits_shown(machine: Machine) -> Any:
    if machine.device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def kernels(machine: Machine, words: list[str]) -> None:
    """Warps and norms, forward and backward, as they can be done on this device."""
    count, channels, size = (2, 16, 16) if machine.tiny else (16, 128, 128)
    source = torch.randn(count, channels, size, size, device=machine.device).to(memory_format=torch.channels_last)
    centres = pixel_centres(size, machine.device)
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).expand(count, -1, -1, -1)
    grid = (grid + 0.05 * torch.randn_like(grid)).contiguous()

    def torch_warp(x: Tensor) -> Tensor:
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    warps = {
        "grid_sample, channels last": torch_warp,
        "grid_sample, channels first": lambda x: torch_warp(x.contiguous()),
        "rows": lambda x: sample_rows(x, grid, None),
    }
    if kernel_works(machine.device):
        from emohead.models.warp_kernel import sample_rows as by_triton

        warps["Triton"] = lambda x: by_triton(x, grid)
    norms = {
        "BatchNorm2d, channels last": nn.BatchNorm2d(channels),
        "GlobalBatchNorm2d": GlobalBatchNorm2d(channels),
        "GroupNorm": nn.GroupNorm(1, channels),
    }
    for kind, calls in (("warp", warps), ("norm", {name: norm.to(machine.device) for name, norm in norms.items()})):
        for name, call in calls.items():
            given = source.detach().requires_grad_()
            milliseconds = 1e3 * machine.seconds(lambda call=call, x=given: call(x).sum().backward(), machine.steps)
            tell(f"{kind}: {name}", ms=milliseconds)


if __name__ == "__main__":
    run_row({row.__name__: row for row in (ceilings, steps, yardstick, waits, kernels)})
