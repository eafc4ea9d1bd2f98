"""Rows of the acceptance run that ask whether a GPU computes what a CPU does, and whether a run survives there."""

import importlib.util
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from emohead.models.checkpoint import load_checkpoint
from emohead.trainers.all_stages import STAGES
from emohead.trainers.run.checkpoints import Checkpoints
from emohead.trainers.run.preemption import Notice
from emohead.trainers.run.save_and_resume import Saver, shares_of
from emohead.trainers.run.train import train
from emohead.trainers.stage import Stage
from gpu_rows import Machine, run_row, tell
from torch import Tensor

CPU = torch.device("cpu")
CORPUS = Path(__file__).parent / "wheels" / "data"  # as gpu_wheels.sh makes it


def same(machine: Machine, words: list[str]) -> None:
    """Losses and gradients of a stage in float32, on this device and on the CPU; and how far bfloat16 is from them."""
    (name,) = words
    found = {device: losses_and_gradients(machine, name, device, "32-true") for device in {machine.device, CPU}}
    losses, gradient = found[machine.device]
    true_losses, true_gradient = found[CPU]
    low, _ = losses_and_gradients(machine, name, machine.device, "bf16-mixed")
    tell(
        f"{name} beside the CPU",
        loss=max(relative(losses[key], true_losses[key]) for key in losses),
        gradient=float((gradient - true_gradient).norm() / true_gradient.norm()),
        bf16_loss=max(relative(low[key], true_losses[key]) for key in low),
    )


def losses_and_gradients(
    machine: Machine, name: str, device: torch.device, precision: str
) -> tuple[dict[str, float], Tensor]:
    stage = machine.stage(name, f"trainer.precision={precision}", device=device)
    batch = machine.batch(name, count=2, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision != "32-true"):
        losses = stage.losses(batch)
        total = stage.total(losses)
    total.backward()
    gradients = [p.grad.flatten().cpu() for p in stage.network.parameters() if p.grad is not None]
    return {key: float(value) for key, value in losses.items()}, torch.cat(gradients)


def relative(a: float, b: float) -> float:
    return abs(a - b) / max(abs(b), 1e-3)  # of a loss of almost nothing, the difference in thousandths


def engines(machine: Machine, words: list[str]) -> None:
    """Ten adversarial steps in float32 by each ZeRO stage: greatest difference of a weight from plain PyTorch.

    The networks are those of the tests: the real ones amplify rounding (a warp's derivative jumps from pixel to
    pixel), so that a comparison after ten steps says nothing.
    """
    from tests import test_engines

    machine.join()
    data = [batch.to(machine.device) for batch in test_engines.batches()[: test_engines.STEPS]]
    for zero in (0, 1, 2, 3):
        plain, ours = (
            {name: network.to(machine.device) for name, network in test_engines.networks().items()} for _ in range(2)
        )
        test_engines.steps(plain, data, test_engines.bare_update(plain))
        made = test_engines.make_engines(f"zero{zero}", ours, 0, device=machine.device)
        test_engines.steps(ours, data, test_engines.engine_update(made))
        apart = 0.0
        for name, engine in made.items():
            with engine.whole():
                pairs = zip(plain[name].parameters(), engine.module.parameters(), strict=True)
                apart = max([apart, *(float((a - b.to(a.device)).detach().abs().max()) for a, b in pairs)])
        tell(f"ZeRO-{zero} beside plain PyTorch", weight=apart)


def checkpoints(machine: Machine, words: list[str]) -> None:
    """A checkpoint that is written on this device goes on on the CPU, and the other way round, bit for bit."""
    for source, target in ((machine.device, CPU), (CPU, machine.device)):
        folder = machine.folder / ("checkpoints-of-gpu" if target is CPU else "checkpoints-of-cpu")
        first, saver = started(machine, source, folder)
        first.training_step(machine.batch("motion", count=2, device=source), 0)
        first.num_batches = 1
        saver.save(first)
        saver.finish()
        second, _ = started(machine, target, folder)
        held, found = (shares_of(stage) for stage in (first, second))
        equal = all(torch.equal(held[key].values.cpu(), found[key].values.cpu()) for key in held | found)
        tell(f"a checkpoint from {source.type} to {target.type}", equal=equal)


def started(machine: Machine, device: torch.device, folder: Path) -> tuple[Stage, Saver]:
    """A stage on a device, at the newest checkpoint of a folder, if there is one."""
    stage, saver = machine.stage("motion", device=device), Saver(Checkpoints(folder), Notice(), print)
    saver.load_weights(stage)
    machine.engines(stage)
    saver.restore(stage)
    return stage, saver


def chain(machine: Machine, words: list[str]) -> None:
    """Four stages on a tiny corpus, each from those before it; talker, videos and report too, where FFmpeg's are."""
    from emohead.apps.demo_plan import TINY, stage_overrides

    out, exports = machine.folder / "chain", {}
    if CORPUS.is_dir():
        shutil.copytree(CORPUS, out / "data")
    else:
        from emohead.datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic

        prepare_synthetic(out / "data", SyntheticConfig(seed=0, workers=2, **TINY.corpus), codec="mjpeg")
    for stage in STAGES:
        given = [*stage_overrides(out, stage, exports, seed=0), *TINY.overrides(stage), *without_what_lacks()]
        exports[stage] = train(stage, [Path(f"{stage}-debug")], [*given, accelerator(machine)])
    tensors = load_checkpoint(exports["distill"], kind="talker").tensors.values()
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())
    tell("a tiny chain to its talker", finite=finite)
    if not without_what_lacks():
        from emohead.apps.demo import run_demo

        run_demo(out, plan=TINY)
        tell("and its report", videos=len(list((out / "videos").glob("*.mp4"))))


def without_what_lacks() -> list[str]:
    """Settings of a run that a bare machine can do: a validation writes films, and W&B is told of figures."""
    lacks = {"av": "data.val_splits=[]", "wandb": "tracking.wandb=disabled"}
    return [setting for module, setting in lacks.items() if not importlib.util.find_spec(module)]


def accelerator(machine: Machine) -> str:
    return f"trainer.accelerator={'gpu' if machine.device.type == 'cuda' else 'cpu'}"


def resume(machine: Machine, words: list[str]) -> None:
    """A run that is killed between two checkpoints and goes on, beside one that is not; after `chain`."""
    from tests import survival

    demo = machine.folder / "chain"
    given = ["trainer.max_steps=40", "trainer.checkpoint_every=5", "trainer.val_every=20"]
    given += [accelerator(machine), *without_what_lacks()]
    for stage in ("emotion", "motion", "face"):
        runs = [machine.folder / f"{stage}-{kind}" for kind in ("undisturbed", "killed")]
        survival.finish(survival.start(demo, stage, runs[0], *given))
        killed = survival.start(demo, stage, runs[1], *given)
        survival.wait_for_step(killed, runs[1], 12)
        survival.kill(killed)
        survival.finish(survival.start(demo, stage, runs[1], *given))
        true, found = (survival.losses(run) for run in runs)
        steps = sorted(set(true) & set(found))
        apart = max(relative(found[s][key], value) for s in steps for key, value in true[s].items())
        tell(f"{stage}, killed and resumed", steps=len(found), of=len(true), loss=apart)


def half(machine: Machine, words: list[str]) -> None:
    """Steps of a stage in float16 with a loss scale: how many are taken, and whether losses are finite."""
    (name,) = words
    stage: Any = machine.engines(machine.stage(name, "trainer.precision=16-mixed"))
    batch, finite, taken = machine.batch(name), 0, 0
    for _ in range(2 * machine.steps):
        stage.training_step(batch, 0)
        stage.num_batches += 1
        finite += all(bool(value.isfinite()) for value in stage.logs.values())
        taken += all(math.isfinite(norm.read()) for norm in stage.norms.values())
    tell(f"{name} in 16-mixed", steps=2 * machine.steps, finite=finite, taken=taken)


def memory(machine: Machine, words: list[str]) -> None:
    """What is said when a batch does not fit."""
    from emohead.trainers.run.memory_error import explain

    stage = machine.engines(machine.stage("face"))
    try:
        if machine.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(0.02)
            stage.training_step(machine.batch("face"), 0)
        else:
            torch.empty(2**55)
        told = None
    except (RuntimeError, MemoryError) as error:
        told = explain(error, stage="face", config=stage.config, size=machine.pixels)
    tell("out of memory", told=told)


if __name__ == "__main__":
    run_row({row.__name__: row for row in (same, engines, checkpoints, chain, resume, half, memory)})
