"""What a run exports: its best checkpoint by the stage's metric on val, or its newest one.

The newest weights are not the best ones of a run that overfits, and of an adversarial one they are any of many.
"""

import platform
from pathlib import Path
from typing import Any, NamedTuple

from ...datamodules.module import TalkingFaceData
from ...models.errors import UserError
from ...models.versions import version_of
from ..all_stages import find_stage
from ..config import as_dict, load_config
from ..stage import Stage
from .checkpoints import Checkpoints
from .legs import seconds_so_far
from .origin import origin, public
from .save_and_resume import load_weights, sharded
from .settings import CHECKPOINTS, report
from .stored import Stored

PACKAGES = ("emohead", "torch", "pytorch-lightning", "deepspeed", "open_clip_torch")


class Chosen(NamedTuple):
    """The checkpoint to export."""

    stored: Stored
    score: float | None  # by which it is the best, more being better; None: it is the newest

    def told(self, monitor: str) -> dict[str, Any]:
        """What the provenance says of it; monitor: as that of a stage."""
        step = {"step": self.stored.step}
        if self.score is None:
            return step | {"chosen": "newest"}
        value = -self.score if monitor.startswith("-") else self.score
        return step | {"chosen": "best", "metric": monitor.removeprefix("-"), "value": value}


def export_path(run: Path, stage_type: type[Stage]) -> Path:
    return run / "export" / f"{stage_type.kind}.safetensors"


def choose(checkpoints: Checkpoints, *, last: bool = False) -> Chosen | None:
    """The best sound checkpoint; the newest if none is known as the best, or for `last`. For all ranks together."""
    for score, step in [] if last else checkpoints.kept_best():
        stored = checkpoints.sound([step], report)
        if stored is not None:
            return Chosen(stored, score)
    stored = checkpoints.newest(report)
    return None if stored is None else Chosen(stored, None)


def export_trained(stage: Stage, data: TalkingFaceData, run: Path, checkpoints: Checkpoints) -> Path | None:
    """Export a stage that was trained to its last step, with the weights of the checkpoint that `choose` finds.

    For all ranks together; returns the file on rank 0, None on the others.
    """
    chosen = choose(checkpoints)
    if chosen is None:
        raise UserError(checkpoints.folder, "no checkpoint in it is sound", "see what is wrong with the disk")
    if stage.global_rank:
        return None
    if sharded(stage.config.trainer):  # rank 0 holds a part of the networks
        stage = type(stage)(stage.config, data.facts)
    path = export_path(run, type(stage))
    _write(path, stage, data, run, chosen)
    return path


def export_run(run: Path, out: Path, *, last: bool = False) -> dict[str, Any]:
    """Export the best sound checkpoint of a run folder, finished or not; the newest if it has none, or for `last`.

    Returns:
        What the export's provenance says of the checkpoint: step and why; of the best, metric and value.
    """
    chosen = choose(Checkpoints(run / CHECKPOINTS), last=last) if (run / "config.yaml").is_file() else None
    if chosen is None:
        raise UserError(run, "no run folder with a checkpoint", f"wanted are config.yaml and {CHECKPOINTS}/step-…")
    stage_type = find_stage(chosen.stored.stage)
    config: Any = load_config(stage_type.config_type, [run / "config.yaml"], [])
    data = TalkingFaceData(stage_type.name, config.data, seed=config.seed)
    _write(out, stage_type(config, data.facts), data, run, chosen)
    return chosen.told(stage_type.monitor)


def _write(path: Path, stage: Stage, data: TalkingFaceData, run: Path, chosen: Chosen) -> None:
    load_weights(stage, chosen.stored)
    where_from = provenance(stage, data, seconds=seconds_so_far(run)) | {"checkpoint": chosen.told(stage.monitor)}
    stage.export(path, where_from)


def provenance(stage: Stage, data: TalkingFaceData, *, seconds: float) -> dict[str, Any]:
    """The origin of weights: data, steps, seed, seconds of all legs, the checkpoints they were made from, versions."""
    return {
        "steps": stage.num_batches,
        "seed": stage.config.seed,
        "seconds": round(seconds, 1),
        "config": public(as_dict(stage.config)),
        "versions": {package: version_of(package) for package in PACKAGES} | {"python": platform.python_version()},
    } | origin(stage.inputs, data.provenance())
