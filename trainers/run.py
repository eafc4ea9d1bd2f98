"""One training run: config -> data -> stage -> Lightning -> export. To resume, call it again the same way."""

import logging
import os
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ..datamodules.source import FREE
from ..datamodules.stream import TalkingFaceData
from ..models.errors import UserError
from .config import as_dict, load_config, save_config
from .distill import DistillStage, DistillStageConfig
from .emotion import EmotionStage, EmotionStageConfig
from .face import FaceStage, FaceStageConfig
from .motion import MotionStage, MotionStageConfig
from .stage import Stage, StageConfig
from .tracking import JsonlLogger, Pictures, ProgressLine, wandb_logger

STAGES: dict[str, tuple[type[Stage], type[StageConfig]]] = {
    "emotion": (EmotionStage, EmotionStageConfig),
    "motion": (MotionStage, MotionStageConfig),
    "face": (FaceStage, FaceStageConfig),
    "distill": (DistillStage, DistillStageConfig),
}
EXPORTS = {"emotion": "emotion", "motion": "motion", "face": "face", "distill": "talker"}
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
PACKAGES = ("emohead", "torch", "pytorch-lightning", "open_clip_torch")


class CountBatches(pl.Callback):
    """Counts for the others, so it comes first: Lightning calls callbacks in order, and the module after them."""

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stage.num_batches += 1


class SaveLast(pl.Callback):
    """Keeps `checkpoints/last.ckpt`, written aside and renamed, and ends the run after `max_steps` batches.

    Lightning's own counter counts optimizer steps, of which an adversarial batch has two.
    """

    def __init__(self, path: Path, every: int, max_steps: int) -> None:
        self.path = path
        self.every = every
        self.max_steps = max_steps

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        done = stage.num_batches >= self.max_steps
        if done or stage.num_batches % self.every == 0:
            partial = self.path.with_name(self.path.name + ".partial")
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                os.replace(partial, self.path)
        trainer.should_stop = trainer.should_stop or done


def train(name: str, files: list[Path], overrides: list[str]) -> Path:
    """Train a stage to its last step and export it.

    Args:
        name: emotion, motion, face or distill.
        files: YAML files, or names of shipped ones, later ones winning.
        overrides: `key=value`, winning over the files.

    Returns:
        The exported `.safetensors`.
    """
    if name not in STAGES:
        raise UserError(f"'{name}': no such stage; one of {', '.join(STAGES)}")
    stage_type, config_type = STAGES[name]
    config: Any = load_config(config_type, files, overrides)
    _check(config)
    quieten()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    pl.seed_everything(config.seed, verbose=False)
    run = Path(config.run or f"runs/{name}")
    data = TalkingFaceData(name, config.data, seed=config.seed, bad_samples=run / "bad_samples.jsonl")
    stage = stage_type(config, data.facts)

    _check_same_run(config, config_type, run)
    (run / LAST_CHECKPOINT.parent).mkdir(parents=True, exist_ok=True)
    save_config(config, run / "config.yaml")
    started = time.time()
    _fit(stage, data, config, run)
    path = run / "export" / f"{EXPORTS[name]}.safetensors"
    stage.export(path, provenance(stage, data, seconds=time.time() - started))
    return path


def export_run(run: Path, out: Path) -> None:
    """Export the last checkpoint of a run folder, finished or not."""
    if not (run / "config.yaml").is_file() or not (run / LAST_CHECKPOINT).is_file():
        raise UserError(f"{run}: no run folder with a checkpoint; wanted are config.yaml and {LAST_CHECKPOINT}")
    state = torch.load(run / LAST_CHECKPOINT, map_location="cpu", weights_only=True)
    name = state["stage"]
    stage_type, config_type = STAGES[name]
    config: Any = load_config(config_type, [run / "config.yaml"], [])
    quieten()
    data = TalkingFaceData(name, config.data, seed=config.seed)
    stage = stage_type(config, data.facts)
    stage.load_state_dict(state["state_dict"])
    stage.on_load_checkpoint(state)
    stage.export(out, provenance(stage, data, seconds=0.0))


def provenance(stage: Stage, data: TalkingFaceData, *, seconds: float) -> dict[str, Any]:
    """Where weights come from: data, steps, seed, the checkpoints they were made from, versions."""
    return {
        "steps": stage.num_batches,
        "seed": stage.config.seed,
        "seconds": round(seconds, 1),
        "data": data.provenance(),
        "inputs": stage.inputs,
        "config": as_dict(stage.config),
        "versions": {package: version(package) for package in PACKAGES} | {"python": platform.python_version()},
    }


def _fit(stage: Stage, data: TalkingFaceData, config: StageConfig, run: Path) -> None:
    """Train from the last checkpoint, if there is one, to `max_steps`."""
    c = config.trainer
    last = run / LAST_CHECKPOINT
    jsonl = JsonlLogger(run / "metrics.jsonl")
    resumed_at = -1
    if last.exists():
        resumed_at = torch.load(last, map_location="cpu", weights_only=True)["num_batches"]
    jsonl.forget_after(resumed_at)
    if resumed_at >= c.max_steps:
        stage.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])
        stage.num_batches = resumed_at
        return
    wandb = wandb_logger(config.tracking, run, as_dict(config))
    trainer = pl.Trainer(
        accelerator=c.accelerator,
        devices=c.devices,
        precision=c.precision,  # type: ignore[arg-type]
        max_epochs=-1,
        log_every_n_steps=c.log_every,
        val_check_interval=c.val_every if data.facts.num_val else None,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if data.facts.num_val else 0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=str(run),
        logger=[jsonl] + ([wandb] if wandb else []),
        callbacks=[
            CountBatches(),
            ProgressLine(run.name, c.max_steps),
            Pictures(run / "samples"),
            SaveLast(last, c.checkpoint_every, c.max_steps),
        ],
    )
    try:
        trainer.fit(stage, datamodule=data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    finally:
        if wandb:
            wandb.experiment.finish()


def _check_same_run(config: StageConfig, config_type: type[StageConfig], run: Path) -> None:
    """A run folder goes on with what it was started with; only what changes no sample and no step may change."""
    if not (run / LAST_CHECKPOINT).exists():
        return
    started, now = as_dict(load_config(config_type, [run / "config.yaml"], [])), as_dict(config)
    for name in FREE:
        started["data"][name] = now["data"][name]
    for key in started.keys() - {"trainer", "tracking", "run"}:
        if started[key] != now[key]:
            raise UserError(f"{run}: was started with another '{key}'; set run= to a new folder, or delete this one")


def _check(config: StageConfig) -> None:
    if config.trainer.precision not in ("32-true", "bf16-mixed"):
        raise UserError(f"trainer.precision={config.trainer.precision}: wanted is 32-true or bf16-mixed")
    if config.tracking.wandb not in ("online", "offline", "disabled"):
        raise UserError(f"tracking.wandb={config.tracking.wandb}: wanted is online, offline or disabled")
    for key in ("max_steps", "log_every", "val_every", "checkpoint_every"):
        if getattr(config.trainer, key) < 1:
            raise UserError(f"trainer.{key}={getattr(config.trainer, key)}: wanted is 1 or more")


def quieten() -> None:
    """Lightning's hints are for those who write stages, not for those who train them."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")  # a demo on a cluster's login node
