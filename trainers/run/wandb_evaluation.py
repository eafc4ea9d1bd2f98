"""An evaluation as a W&B run of its own, beside the runs of training.

It is no row of the training run: W&B drops rows of steps that lie behind it, and one checkpoint may be evaluated on
several data sets. The graph shows what was evaluated by the checksum in the configuration.
"""

import os
import secrets
from pathlib import Path
from typing import Any

from ...models.checkpoint import Checkpoint
from ...models.errors import UserError
from ..tracking import DISABLED, ONLINE, TrackingConfig, has_key, mode, wrong_tracking
from .origin import origin
from .wandb_files import sync_command
from .wandb_run import leave_wandb, start_wandb, wandb_settings

JOB_TYPE = "evaluate"


def check(out: Path | None) -> None:
    """Raises UserError about what would keep an evaluation from W&B, before hours are spent on it."""
    if out is None:
        raise UserError("--wandb", "keeps its files in the folder of --out, which is missing", "add --out FOLDER")
    for error in wrong_tracking(TrackingConfig(), os.environ):
        raise error
    if mode(TrackingConfig(), os.environ) == ONLINE and not has_key():
        raise UserError("W&B", "there is no key to log in with", "`wandb login`, or set WANDB_API_KEY")


def log_evaluation(
    out: Path,
    checkpoint: Checkpoint,
    data: dict[str, Any],  # what `ClipReader.provenance` says
    split: str,
    figures: dict[str, float],
    videos: list[Path],
) -> None:
    """Send figures and videos, of which W&B keeps copies in `out`, as W&B's variables say; offline by default."""
    given, _ = wandb_settings(TrackingConfig(), out, os.environ, stage=JOB_TYPE)
    if given["mode"] == DISABLED:
        return
    import wandb

    given["name"] = os.environ.get("WANDB_NAME") or f"{checkpoint.path.stem} on {split}"
    given["group"] = os.environ.get("WANDB_RUN_GROUP") or group_of_export(checkpoint.path)
    settings: dict[str, Any] = {"checkpoint": str(checkpoint.path), "split": split}
    settings["origin"] = origin({checkpoint.kind: checkpoint.sha256}, [data])
    run = start_wandb(given | {"id": secrets.token_hex(8), "config": settings, "resume": None})
    shown = {f"{split}/{path.stem}": wandb.Video(str(path), format="mp4") for path in videos}
    run.log({f"{split}/{name}": value for name, value in figures.items()} | shown)
    run.finish()
    if run.settings.mode == ONLINE:
        print(f"W&B: {run.url}")
    else:
        parent = Path(run.settings.sync_dir).parent
        print(f"to send the evaluation to W&B: {sync_command(parent, run.id, wandb.__version__)}")
    leave_wandb()


def group_of_export(path: Path) -> str | None:
    """The folder of the chain that an export is of: mead of runs/mead/face/export/face.safetensors."""
    folder, *above = path.absolute().parents
    name = above[1].name if folder.name == "export" and len(above) > 1 else ""
    return None if name in ("", "runs") else name
