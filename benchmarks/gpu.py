"""Full-size stages on a GPU: samples/s, MFU, peak memory; ZeRO 0 to 3 on NCCL; two engines against plain PyTorch.

Batches are made up and weights are random: it is speed that is measured. `--device cpu --tiny` goes through the same
code without a GPU. See gpu.sh.
"""

import argparse
import os
import socket
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from emohead.datamodules.batch import Batch, made_up_batch
from emohead.models.files import write_json
from emohead.trainers.engines.deepspeed import DeepSpeedEngine
from emohead.trainers.engines.plain import Engine, LossScale, PlainEngine
from emohead.trainers.engines.precision import processor, use_tf32
from emohead.trainers.run.meter import Meter
from emohead.trainers.run.train import quieten
from emohead.trainers.stage import Stage
from overhead import make_stage

STAGES = ("emotion", "motion", "face", "distill")
FRAMES = {"emotion": 75, "motion": 100, "face": 27, "distill": 75}
BATCHES = {"emotion": 64, "motion": 64, "face": 16, "distill": 16}
ROW = "{what:28} {precision:11} {samples_per_second:9.1f} {mfu:6.1%} {peak_gib:8.1f}  {note}"


class Bench:
    """One process on one device, with a process group of its own for DeepSpeed."""

    def __init__(self, device: str, folder: Path, tiny: bool, steps: int, out: Path) -> None:
        self.device, self.folder, self.tiny, self.steps, self.out = torch.device(device), folder, tiny, steps, out
        self.name = torch.cuda.get_device_name() if device == "cuda" else processor()
        self.started = time.time()
        self.two_engines: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []

    def stage(self, name: str, *overrides: str) -> Stage:
        size = "debug" if self.tiny else "base"
        stage = make_stage(name, self.folder, *overrides, size=size, pixels=128 if self.tiny else 256)
        stage.to(self.device).train().on_fit_start()  # which moves the networks that it asks only
        return stage

    def batch(self, name: str, count: int) -> Batch:
        frames = 20 if self.tiny else FRAMES[name]
        batch = made_up_batch(name, batch_size=count, size=128 if self.tiny else 256, num_frames=frames)
        return {
            key: value.to(self.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()
        }

    def engines(self, stage: Stage, zero: int | None) -> None:
        common: dict[str, Any] = {"clip_norm": stage.config.optimizer.clip_norm, "scale": LossScale(False)}
        for (name, module), optimizer in zip(stage.trained().items(), stage.configure_optimizers(), strict=True):
            if zero is None:
                engine: Engine = PlainEngine(module, optimizer, **common)
            else:
                own = {"zero_stage": zero, "offload": False, "device": self.device, "local_rank": 0}
                engine = DeepSpeedEngine(module, optimizer, **own, **common)
            stage.engines[name] = engine

    def measure(self, name: str, precision: str, zero: int | None = None, *overrides: str) -> None:
        stage = self.stage(name, f"trainer.precision={precision}", *overrides)
        self.engines(stage, zero)
        count = 2 if self.tiny else BATCHES[name]
        batch, meter = self.batch(name, count), Meter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for step in range(3 + self.steps):
            if step == 3:
                self.wait()
                meter.forget()
            meter.begin_step()
            stage.training_step(batch, 0)
            stage.num_batches += 1
            self.wait()
            meter.end_step(count)
        figures = meter.read(1, self.device, precision)
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        what = name if zero is None else f"{name}, ZeRO-{zero}"
        row = {"what": what, "precision": precision, "peak_gib": peak, "note": " ".join(overrides), **figures}
        self.rows.append({"mfu": 0.0, **row})
        print(ROW.format(**self.rows[-1]), flush=True)
        self.write()

    def write(self) -> None:
        """All figures so far: a machine that is lent may be taken back at any time."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        result = {"device": self.name, "torch": torch.__version__, "seconds": time.time() - self.started}
        write_json(self.out, result | {"two_engines": self.two_engines, "rows": self.rows})

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def same_as_plain(self, zero: int) -> float:
        """Ten adversarial steps in float32: greatest difference of a weight from plain PyTorch.

        The networks are those of the tests: the real ones amplify rounding (a warp's derivative jumps from pixel to
        pixel), so that a comparison after ten steps says nothing.
        """
        from tests import test_engines  # gpu.sh puts the project on the path

        plain, ours = (
            {name: network.to(self.device) for name, network in test_engines.networks().items()} for _ in range(2)
        )
        data = [batch.to(self.device) for batch in test_engines.batches()[: test_engines.STEPS]]
        test_engines.steps(plain, data, test_engines.bare_update(plain))
        engines = test_engines.make_engines(f"zero{zero}", ours, 0, device=self.device)
        test_engines.steps(ours, data, test_engines.engine_update(engines))
        differences = []
        for name, engine in engines.items():
            with engine.whole():
                pairs = zip(plain[name].parameters(), engine.module.parameters(), strict=True)
                differences += [float((a - b.to(a.device)).detach().abs().max()) for a, b in pairs]
        return max(differences)


def join(device: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=0, world_size=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="debug sizes and a few steps: shows that it runs")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing was measured (--device cpu --tiny goes through the same code)")
        return
    quieten()
    warnings.filterwarnings("ignore", category=FutureWarning)  # DeepSpeed's calls of torch.distributed
    use_tf32(False)  # for the comparison below
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.device, Path(folder), options.tiny, steps=2 if options.tiny else 15, out=options.out)
        for stage in ("emotion", "motion", "face"):
            bench.stage(stage).export(bench.folder / f"{stage}.safetensors", {})
        join(options.device)
        print("two engines against plain PyTorch, ten steps with R1, greatest difference of a weight:")
        for zero in (0, 1, 2, 3):
            bench.two_engines[f"ZeRO-{zero}"] = bench.same_as_plain(zero)
            bench.write()
        print("  " + ", ".join(f"{kind} {value:.1e}" for kind, value in bench.two_engines.items()), flush=True)
        use_tf32(True)
        print(f"{bench.name}\n{'stage':28} precision   samples/s    MFU  peak GiB")
        for stage in STAGES:
            for precision in ("32-true", "bf16-mixed"):
                bench.measure(stage, precision)
        bench.measure("face", "bf16-mixed", None, "trainer.recompute=true")
        for zero in (0, 1, 2, 3):
            bench.measure("motion", "bf16-mixed", zero)
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
