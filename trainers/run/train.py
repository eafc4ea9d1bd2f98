"""One training run: config -> data -> stage -> Lightning -> export. To resume, call it again the same way."""

import logging
import sys
import traceback
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import pytorch_lightning as pl
import torch

from ...datamodules.module import TalkingFaceData
from ...models.errors import Failure
from ...models.lock import locked
from ..all_stages import find_stage
from ..config import as_dict, load_config, save_config
from ..lightning_private import leave_signals_alone, rank_zero_only
from ..stage import Stage, StageConfig
from .checkpoints import Checkpoints
from .cluster import end_of_job, environment, forget_leftovers, requeue
from .cpu import spare_cpu
from .export import export_trained
from .gpu import settle_gpus
from .guards import SkippedSteps
from .journal import Journal
from .legs import begin_leg, ending_leg
from .loop import Loop
from .lost_nodes import note_lost, own_node
from .memory_error import explain
from .origin import origin, public
from .preemption import Notice, Preempted
from .progress_bar import ProgressLine, Show
from .pruning import Pruned, Watch
from .save_and_resume import Saver
from .settings import (
    CHECKPOINTS,
    check,
    check_device,
    check_same_run,
    report,
    run_folder,
    settle_devices,
    settle_precision,
)
from .strategy import EngineStrategy
from .wandb_run import Say
from .watchdog import Watchdog


def train(
    name: str, files: list[Path], overrides: list[str], *, show: Show | None = None, watch: Watch | None = None
) -> Path | None:
    """Train a stage to its last step and export it.

    Args:
        name: of a stage, one of STAGES.
        files: YAML files, or names of shipped ones, later ones winning.
        overrides: `key=value`, winning over the files.
        show: called with steps done, steps in all and a note, in place of the run's own progress bar.
        watch: called after each validation, and may end the run.

    Returns:
        The exported `.safetensors`; None on all ranks but the first.

    Raises:
        Preempted: told to leave before the last step; saved.
        Pruned: ended by `watch`; nothing is exported.
        KeyboardInterrupt: Ctrl-C came after the last step; the run has ended well all the same.
    """
    stage_type = find_stage(name)
    forget_leftovers()
    notice = Notice()
    try:
        path = _train(stage_type, files, overrides, notice, show, watch)
    except BaseException as error:
        notice.close(leaving=isinstance(error, Preempted))
        raise
    notice.close(leaving=False)
    if notice.by_hand:  # too late to be saved and left: nothing was left to do
        raise KeyboardInterrupt
    return path


def _train(
    stage_type: type[Stage],
    files: list[Path],
    overrides: list[str],
    notice: Notice,
    show: Show | None,
    watch: Watch | None,
) -> Path | None:
    config: Any = load_config(stage_type.config_type, files, overrides)
    settle_devices(config)
    check(config)
    stage_type.check(config)
    check_device(config)
    quieten()
    if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        spare_cpu()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    pl.seed_everything(config.seed, verbose=False)
    run = run_folder(config, stage_type.name)
    with locked(run) if rank_zero_only.rank == 0 else nullcontext(), ending_leg(run):
        return _train_in(run, config, stage_type, notice, show, watch)


def _train_in(
    run: Path, config: Any, stage_type: type[Stage], notice: Notice, show: Show | None, watch: Watch | None
) -> Path | None:
    """Train in a run folder that no other process writes."""
    settle_precision(config, run)
    data = TalkingFaceData(stage_type.name, config.data, seed=config.seed, bad_samples=run / "bad_samples.jsonl")
    if data.facts.num_silent and rank_zero_only.rank == 0:
        report(f"clips without sound, which this stage does not train on: {data.facts.num_silent}")
    if data.facts.shown_to_face_model and rank_zero_only.rank == 0:
        shown = ",".join(data.facts.shown_to_face_model)
        report(
            f"held out, but the face model was built of them too: {shown} (see `emohead prepare --holdout-emotions`)"
        )
    stage = stage_type(config, data.facts)
    checkpoints = Checkpoints(run / CHECKPOINTS, keep_last=config.trainer.keep_last, keep_best=config.trainer.keep_best)
    check_same_run(config, run)
    settle_gpus(config.trainer, run)
    strategy = EngineStrategy(config.trainer, environment(config.trainer))
    if rank_zero_only.rank == 0:
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
        save_config(config, run / "config.yaml")
        begin_leg(run, stage)
    try:
        _fit(stage, data, config, run, checkpoints, strategy, notice, show, watch)
    except Preempted as preempted:
        strategy.leave()
        if rank_zero_only.rank == 0 and not preempted.by_hand and requeue():
            print(f"{run}: the job waits in the queue again", file=sys.stderr)
        raise
    except Pruned:
        strategy.leave()
        raise
    path = export_trained(stage, data, run, checkpoints)
    strategy.leave()
    return path


def _fit(
    stage: Stage,
    data: TalkingFaceData,
    config: StageConfig,
    run: Path,
    checkpoints: Checkpoints,
    strategy: EngineStrategy,
    notice: Notice,
    show: Show | None,
    watch: Watch | None,
) -> None:
    """Train from the newest sound checkpoint, if there is one, to `max_steps`."""
    c = config.trainer
    first = rank_zero_only.rank == 0
    journal = open_journal(run, stage, data, say=None if show else report) if first else None
    notice.end, notice.save_before = end_of_job(), c.save_before
    watchdog = Watchdog(
        num_ranks=c.nodes * c.devices, timeout=c.timeout, host=own_node(), blame=partial(note_lost, run)
    )
    loop = Loop(
        saver=Saver(checkpoints, notice, report),
        guard=SkippedSteps(run / "skipped_steps.jsonl", checkpoints),
        watchdog=watchdog,
        journal=journal,
        progress=ProgressLine(run.name, c.max_steps, show) if first else None,
        samples=run / "samples",
        watch=watch if first else None,
    )
    trainer = make_trainer(config, data, run, strategy, loop)
    leave_signals_alone(trainer)
    try:
        trainer.fit(stage, datamodule=data)
    except Exception as error:
        told = explain(error, stage=stage.name, config=config, size=data.size) or watchdog.explain(error)
        if told is None:
            raise
        traceback.print_exc()
        raise Failure(told) from None
    finally:
        watchdog.stop(well=isinstance(sys.exception(), (Preempted, Pruned, NoneType)))
        if journal:
            journal.close(sys.exception())


def open_journal(run: Path, stage: Stage, data: TalkingFaceData, say: Say | None) -> Journal:
    """say: is told where the figures are to be seen."""
    config = stage.config
    settings = public(as_dict(config)) | {"origin": origin(stage.inputs, data.provenance())}
    return Journal(run, config.tracking, settings, stage=stage.name, monitor=stage.monitor, say=say)


def make_trainer(
    config: StageConfig, data: TalkingFaceData, run: Path, strategy: EngineStrategy, loop: Loop
) -> pl.Trainer:
    """Lightning's Trainer with all of its own habits switched off that `loop` has in its place."""
    c, validates = config.trainer, data.facts.num_val > 0
    return pl.Trainer(
        accelerator=c.accelerator,
        devices=c.devices,
        num_nodes=c.nodes,
        strategy=strategy,
        max_epochs=-1,
        val_check_interval=c.val_every if validates else None,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=not c.deterministic,  # of cuDNN: shapes do not change from step to step
        default_root_dir=str(run),
        logger=False,
        callbacks=[loop],
    )


def quieten() -> None:
    """Lightning's hints are for those who write stages, not for those who train them."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")  # a demo on a cluster's login node
