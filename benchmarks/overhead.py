"""The costs of a run beside its training steps.

1. A step of each stage through the whole stack (Lightning, strategy, callbacks, engine) beside a bare PyTorch loop with
   the same losses, optimizer and batch. Both take turns within one process, so that the machine's moods hit both.
2. Two processes of one thread against one, at twice the global batch, plain and at every ZeRO stage: how much of twice
   the speed is reached, and the bytes that a rank sends in a step against the least that this stage needs.

    python benchmarks/overhead.py [--blocks 4] [--out benchmarks/results/overhead.json]
"""

import argparse
import copy
import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from collectives import Traffic
from emohead.datamodules.batch import Batch, made_up_batch
from emohead.models.errors import UserError
from emohead.models.face_loss import discriminator_adversarial_loss, gradient_penalty
from emohead.models.face_model import FaceModel
from emohead.trainers.all_stages import STAGES
from emohead.trainers.config import load_config
from emohead.trainers.face_augmentation import augmented
from emohead.trainers.run.checkpoints import Checkpoints
from emohead.trainers.run.cluster import environment
from emohead.trainers.run.guards import SkippedSteps
from emohead.trainers.run.journal import Journal
from emohead.trainers.run.loop import Loop
from emohead.trainers.run.preemption import Notice
from emohead.trainers.run.progress_bar import ProgressLine
from emohead.trainers.run.save_and_resume import Saver
from emohead.trainers.run.strategy import EngineStrategy
from emohead.trainers.run.train import quieten
from emohead.trainers.run.watchdog import Watchdog
from emohead.trainers.stage import Stage
from engines import attach_engines
from pytorch_lightning import Callback, Trainer

SIZES = {"emotion": 96, "motion": 96, "face": 8, "distill": 8}  # batches whose step takes 300 ms or more on two cores
BLOCK = 6  # steps in a row
WARM_UP = 2  # of them are not counted
KINDS = ("plain", 0, 1, 2, 3)
LINE = "{kind:7} {alone_ms:7.0f} ms  {two_ms:7.0f} ms  {efficiency:5.2f}  {mb_a_step:7.1f} MB  {least_mb:7.1f} MB"


def face_model() -> FaceModel:
    rng = np.random.default_rng(0)
    mean = rng.uniform(-0.8, 0.8, (75, 3))
    return FaceModel(mean, rng.normal(0, 0.05, (3, 75, 3)), rng.normal(0, 0.05, (4, 75, 3)), np.arange(68))


def make_stage(name: str, folder: Path, *overrides: str, size: str = "debug", pixels: int = 128) -> Stage:
    """A stage of a shipped size for made-up data of so many pixels, on the exports in `folder`."""
    stage_type = STAGES[name]
    given = [f"run={folder / name}", "tracking.wandb=disabled", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    given += ["trainer.max_steps=1000000", "optimizer.warmup_steps=0", *overrides]
    given += [f"{start.key}={folder / start.kind}.safetensors" for start in stage_type.starts_from if start.needed]
    if name == "face":
        given += ["adversary.start=0", "adversary.r1_every=2"]
    config: Any = load_config(stage_type.config_type, [Path(f"{name}-{size}")], given)
    motion = {"motion_dim": 10, "motion_mean": np.zeros(10, np.float32), "motion_std": np.full(10, 0.2, np.float32)}
    facts = SimpleNamespace(identity_dim=3, face_model=face_model(), size=pixels, num_val=0, **motion)
    torch.manual_seed(0)
    return stage_type(config, facts)


def make_batch(name: str, size: int, pixels: int = 128) -> Batch:
    return made_up_batch(name, batch_size=size, size=pixels, num_frames=40)


class Held(torch.utils.data.IterableDataset):
    """One batch, for ever."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Any:
        while True:
            yield self.batch


class BareLoop:
    """The same training, written out."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage.train()
        self.optimizers = stage.configure_optimizers()
        own = {"face": self.adversarial_step, "motion": self.judged_step}
        self.step = own.get(stage.name, self.plain_step)

    def update(self, index: int, loss: torch.Tensor) -> None:
        optimizer = self.optimizers[index]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.stage.clip_norm(list(self.stage.trained())[index]))
        optimizer.step()

    def plain_step(self, batch: Batch) -> None:
        self.update(0, self.stage.total(self.stage.losses(batch)))
        self.stage.num_batches += 1

    def judged_step(self, batch: Batch) -> None:
        stage: Any = self.stage
        stage.critics.requires_grad_(False)
        draws = stage.draws(batch)
        emotion = stage.draw_emotion(batch, draws)
        self.update(0, stage.total(stage.network_losses(batch, emotion, draws)))
        stage.critics.requires_grad_(True)
        self.update(1, torch.stack(list(stage.judge(batch, batch["motion"], emotion).values())).sum())
        stage.num_batches += 1

    def adversarial_step(self, batch: Batch) -> None:
        stage: Any = self.stage
        stage.discriminator.requires_grad_(False)
        batch = augmented(batch, stage.config.augment, stage.draws(batch))
        losses, output = stage._generator_losses(batch, batch["target"])
        self.update(0, stage.total(losses))
        with torch.no_grad():
            for kept, current in zip(stage.average.parameters(), stage.network.parameters(), strict=True):
                kept.lerp_(current, 1 - stage.config.ema_decay)
        stage.discriminator.requires_grad_(True)
        fake, real = stage.discriminator(output.frame.detach()), stage.discriminator(batch["target"])
        self.update(1, discriminator_adversarial_loss(real, fake))
        if stage.num_batches % stage.config.adversary.r1_every == 0:
            self.update(1, gradient_penalty(stage.discriminator, batch["target"]) * stage.config.adversary.r1)
        stage.num_batches += 1


class TakeTurns(Callback):
    """Times blocks of the stack's steps, and runs a block of the bare loop after each."""

    def __init__(self, bare: BareLoop, batch: Batch, blocks: int) -> None:
        self.bare, self.batch, self.blocks = bare, batch, blocks
        self.stack_times: list[float] = []
        self.bare_times: list[float] = []
        self.count = 0
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        self.count += 1
        if (self.count - 1) % BLOCK >= WARM_UP and self.count > BLOCK:
            self.stack_times.append(now - self.last)
        if self.count % BLOCK == 0:
            self.run_bare(count=self.count > BLOCK)
            trainer.should_stop = self.count >= BLOCK * (self.blocks + 1)
        self.last = time.perf_counter()

    def run_bare(self, count: bool) -> None:
        for step in range(BLOCK):
            started = time.perf_counter()
            self.bare.step(self.batch)
            if count and step >= WARM_UP:
                self.bare_times.append(time.perf_counter() - started)


def compare(name: str, folder: Path, blocks: int) -> dict[str, Any]:
    """Median step times of stack and bare loop."""
    stage, batch = make_stage(name, folder), make_batch(name, SIZES[name])
    turns = TakeTurns(BareLoop(copy.deepcopy(stage)), batch, blocks)
    run = folder / name
    run.mkdir(exist_ok=True)
    c = stage.config.trainer
    c.checkpoint_every = 10**9  # what a checkpoint costs is asked of its own
    checkpoints, watchdog = Checkpoints(run / "checkpoints"), Watchdog(num_ranks=1, timeout=600)
    loop = Loop(
        saver=Saver(checkpoints, Notice(), print),
        guard=SkippedSteps(run / "skipped.jsonl", checkpoints),
        watchdog=watchdog,
        journal=Journal(run, stage.config.tracking, {}, stage=stage.name, monitor=stage.monitor),
        progress=ProgressLine(name, 10**9),
        samples=run / "samples",
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        strategy=EngineStrategy(c, environment(c)),
        max_epochs=-1,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=False,
        callbacks=[loop, turns],
    )
    trainer.fit(stage, torch.utils.data.DataLoader(Held(batch), batch_size=None, collate_fn=lambda x: x))
    watchdog.stop()
    stack, bare = statistics.median(turns.stack_times), statistics.median(turns.bare_times)
    return {"stage": name, "batch": SIZES[name], "stack_ms": 1e3 * stack, "bare_ms": 1e3 * bare, "ratio": stack / bare}


def rank_of_many(rank: int, num_ranks: int, kind: Any, port: int, folder: Path, steps: int, out: Path) -> None:
    """A rank that trains the motion stage on batches of its own, one thread; rank 0 writes median time and bytes."""
    torch.set_num_threads(1)
    quieten()
    stage = make_stage("motion", folder)
    if num_ranks > 1 or kind != "plain":
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    parameters = sum(p.numel() for module in stage.trained().values() for p in module.parameters() if p.requires_grad)
    attach_engines(stage, None if kind == "plain" else kind, rank)
    batch, times = make_batch("motion", 32), []
    stage.train()
    for _ in range(steps):
        started = time.perf_counter()
        stage.training_step(batch, 0)
        stage.num_batches += 1
        times.append(time.perf_counter() - started)
    with Traffic() as traffic:  # which takes time
        stage.training_step(batch, 0)
    if rank == 0:
        found = {"ms": 1e3 * statistics.median(times[3:]), "bytes": traffic.sent.total(), "parameters": parameters}
        out.write_text(json.dumps(found))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def spawn(num_ranks: int, kind: Any, folder: Path, steps: int) -> dict[str, float]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    out = folder / "found.json"
    torch.multiprocessing.spawn(rank_of_many, (num_ranks, kind, port, folder, steps, out), nprocs=num_ranks)
    return json.loads(out.read_text())


def least_bytes(kind: Any, parameters: int, num_ranks: int) -> float:
    """Gradients once and weights once around the ring; at ZeRO-3 the weights once more, for the backward pass."""
    return (3 if kind == 3 else 2) * 4 * parameters * (num_ranks - 1) / num_ranks


def scale_out(folder: Path, steps: int) -> list[dict[str, Any]]:
    rows = []
    for kind in KINDS:
        alone, two = spawn(1, "plain", folder, steps), spawn(2, kind, folder, steps)
        least = least_bytes(kind, two["parameters"], 2)
        name = kind if kind == "plain" else f"ZeRO-{kind}"
        found = {"alone_ms": alone["ms"], "two_ms": two["ms"], "efficiency": alone["ms"] / two["ms"]}
        rows.append({"kind": name, **found, "mb_a_step": two["bytes"] / 1e6, "least_mb": least / 1e6})
        print(LINE.format(**rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=4, help="blocks of steps of each kind and stage")
    parser.add_argument("--steps", type=int, default=12, help="steps of the processes of the second part")
    parser.add_argument("--stages", nargs="*", default=list(STAGES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "overhead.json")
    options = parser.parse_args()
    if unknown := set(options.stages) - set(STAGES):
        raise UserError(f"--stages {' '.join(unknown)}", "no such stage", f"there are {', '.join(STAGES)}")
    quieten()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stage in ("emotion", "motion", "face"):
            make_stage(stage, folder).export(folder / f"{stage}.safetensors", {})
        print("stage     whole stack   bare loop   ratio")
        overhead = []
        for stage in options.stages:
            overhead.append(compare(stage, folder, options.blocks))
            print("{stage:8} {stack_ms:9.0f} ms {bare_ms:8.0f} ms   {ratio:5.3f}".format(**overhead[-1]), flush=True)
        print("\nmotion  1 process  2 processes  efficiency  sent a step  least")
        scaling = scale_out(folder, options.steps)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps({"overhead": overhead, "scaling": scaling}, indent=1) + "\n")


if __name__ == "__main__":
    main()
