"""How well the face stage uses a machine: training steps and inference beside a plain stack of convolutions.

    python benchmarks/face_speed.py [--sizes debug base] [--device cuda] [--compile]

Everything of one size takes turns within one process. Work is counted (FlopCounterMode: convolutions and matrix
products) and divided by time, so that rates compare whatever the networks. `of plain`: beside a stack that does
about as much work in 3x3 convolutions of the same widths and resolutions. `of GEMM`: beside one large matrix product.
A training step is generator and discriminator, forward, backward and optimizer, without the lazy R1. `--compile`:
the levels of the generator through torch.compile (`trainer.compile=true`); the plain stack stays as it is.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from emohead.trainers.engines.large_blocks import compile_blocks
from emohead.trainers.engines.precision import processor
from emohead.trainers.run.cpu import spare_cpu
from emohead.trainers.run.meter import WorkCounter
from emohead.trainers.run.train import quieten
from engines import attach_engines
from overhead import make_batch, make_stage
from torch import Tensor, nn

PIXELS = {"debug": 128, "small": 256, "base": 256, "base-512": 512}
COARSEST = 8
GEMM = 2048  # rows and columns of the matrix product
LINE = "{size:9} {precision:11} {how:8} {what:10} {images_per_second:9.2f} images/s {of_plain:8.0%} {of_gemm:8.0%}"


class PlainStack(nn.Module):
    """3x3 convolutions at every resolution of a generator, as many of each as do `share` of its work there."""

    def __init__(self, channels: list[int], convolutions: int) -> None:
        super().__init__()
        widths = [channels[0], *channels]
        self.levels = nn.ModuleList(
            nn.Sequential(*(self.convolution(before if n == 0 else width, width) for n in range(convolutions)))
            for before, width in zip(widths, channels, strict=False)
        )
        self.last = nn.Conv2d(channels[-1], 3, 1)

    @staticmethod
    def convolution(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(0.2, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        for number, level in enumerate(self.levels):
            x = level(x if number == 0 else nn.functional.interpolate(x, scale_factor=2.0))
        return self.last(x)


def flops(call: Callable[[], Any]) -> float:
    with WorkCounter() as counter:
        call()
    return float(counter.get_total_flops())


def forward_flops(network: nn.Module, given: Tensor) -> float:
    with torch.no_grad():
        return flops(lambda: network(given))


class Bench:
    def __init__(self, size: str, precision: str, device: torch.device, batch_size: int, compiled: bool) -> None:
        self.size, self.precision, self.device, self.batch_size = size, precision, device, batch_size
        self.compiled = compiled
        given = (f"trainer.precision={precision}", "adversary.r1_every=1000000")
        with tempfile.TemporaryDirectory() as folder:
            stage: Any = make_stage("face", Path(folder), *given, size=size, pixels=PIXELS[size])
        self.stage: Any = stage.to(device).train()
        self.stage.num_batches = 1  # past the penalty
        attach_engines(self.stage)
        batch = make_batch("face", batch_size, pixels=PIXELS[size])
        self.batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        channels = self.stage.config.network.channels
        with torch.no_grad(), self.autocast():
            features = self.stage.average.eval().encode_portrait(self.batch["portrait"][:1]).repeat(batch_size)
        self.calls: dict[str, Callable[[], Any]] = {
            "training": lambda: self.stage.training_step(self.batch, 0),
            "inference": lambda: self.infer(features),
        }
        self.work = {name: flops(call) for name, call in self.calls.items()}
        for name in ("training", "inference"):
            passes = 3 if name == "training" else 1
            given_map = torch.randn(batch_size, channels[0], COARSEST, COARSEST, device=device)
            least, more = (forward_flops(PlainStack(channels, n).to(device), given_map) for n in (1, 2))
            count = 1 + max(0, round((self.work[name] / passes - least) / (more - least)))
            stack = PlainStack(channels, count).to(device, memory_format=torch.channels_last)
            optimizer = torch.optim.Adam(stack.parameters(), lr=1e-5, fused=True)
            call = self.train_stack if name == "training" else self.run_stack
            self.calls[f"plain {name}"] = lambda call=call, s=stack, o=optimizer, g=given_map: call(s, o, g)
            self.work[f"plain {name}"] = flops(self.calls[f"plain {name}"])
        dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
        a, b = (torch.randn(GEMM, GEMM, device=device, dtype=dtype) for _ in range(2))
        self.calls["GEMM"], self.work["GEMM"] = (lambda: a @ b), 2.0 * GEMM**3
        if compiled:  # once the work is counted, which compiled code hides
            for network in (self.stage.network, self.stage.average):
                compile_blocks(network)

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16-mixed")

    @torch.no_grad()
    def infer(self, features: Any) -> Tensor:
        with self.autocast():
            return self.stage.average(features, self.batch["target_motion"]).frame

    def run_stack(self, stack: nn.Module, _: Any, given: Tensor) -> None:
        with torch.no_grad(), self.autocast():
            stack(given)

    def train_stack(self, stack: nn.Module, optimizer: torch.optim.Optimizer, given: Tensor) -> None:
        optimizer.zero_grad()
        with self.autocast():
            loss = stack(given).square().mean()
        loss.backward()
        optimizer.step()

    def measure(self, rounds: int) -> list[dict[str, Any]]:
        seconds: dict[str, list[float]] = {name: [] for name in self.calls}
        for number in range(rounds + 1):
            for name, call in self.calls.items():
                started = time.perf_counter()
                call()
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                if number:  # the first warms up
                    seconds[name].append(time.perf_counter() - started)
        rate = {name: self.work[name] / statistics.median(times) for name, times in seconds.items()}
        return [
            {
                "size": self.size,
                "precision": self.precision,
                "compiled": self.compiled,
                "what": what,
                "batch": self.batch_size,
                "images_per_second": self.batch_size / statistics.median(seconds[what]),
                "gmac_per_image": self.work[what] / 2e9 / self.batch_size,
                "plain_gmac_per_image": self.work[f"plain {what}"] / 2e9 / self.batch_size,
                "gflops": rate[what] / 1e9,
                "of_plain": rate[what] / rate[f"plain {what}"],
                "of_gemm": rate[what] / rate["GEMM"],
                "gemm_gflops": rate["GEMM"] / 1e9,
            }
            for what in ("training", "inference")
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(PIXELS), default=["debug", "base"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=0, help="default: 8 at 128 pixels; above, 2 on a CPU, 16 on a GPU")
    parser.add_argument("--compile", action="store_true", help="measure with torch.compile too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "face_speed.json")
    options = parser.parse_args()
    quieten()
    spare_cpu()
    found = []
    print(f"{'size':9} {'precision':11} {'':19} {'':18} {'of plain':>8} {'of GEMM':>8}")
    for size in options.sizes:
        batch = options.batch or (8 if size == "debug" else 16 if options.device == "cuda" else 2)
        for precision, compiled in itertools.product(("32-true", "bf16-mixed"), sorted({False, options.compile})):
            bench = Bench(size, precision, torch.device(options.device), batch, compiled)
            for row in bench.measure(options.rounds):
                found.append(row)
                print(LINE.format(**row, how="compiled" if compiled else "eager"), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if options.device == "cuda" else processor()
    result = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": found}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
