"""Where the figures of a run are sent beside its own folder: the settings, and what W&B's variables say."""

import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from ..models.errors import UserError

MODES = ("online", "offline", "disabled")
ONLINE, OFFLINE, DISABLED = MODES
OLD_MODES = {"run": ONLINE, "dryrun": OFFLINE}  # as W&B called them before, and still takes
OTHERS = ("csv", "tensorboard")
LONGEST_TAG = 64


@dataclass
class TrackingConfig:
    """An empty setting leaves it to W&B's own variable, which is named beside it."""

    wandb: str = ""  # online, offline or disabled; empty: WANDB_MODE, else offline (under an agent: online)
    project: str = ""  # empty: WANDB_PROJECT, else emohead
    entity: str = ""  # empty: WANDB_ENTITY, else that of the key
    group: str = ""  # empty: WANDB_RUN_GROUP, else the folder of the chain or of the sweep
    tags: list[str] = field(default_factory=list)  # empty: WANDB_TAGS
    notes: str = ""  # empty: WANDB_NOTES
    job_type: str = ""  # empty: WANDB_JOB_TYPE, else the name of the stage
    also: list[str] = field(default_factory=list)  # csv: metrics.csv; tensorboard: event files


def mode(config: TrackingConfig, environ: Mapping[str, str]) -> str:
    named = config.wandb or environ.get("WANDB_MODE") or (ONLINE if trial(environ) else OFFLINE)
    return OLD_MODES.get(named, named)


def trial(environ: Mapping[str, str]) -> str | None:
    """The run's id that `wandb agent` has given a trial of its sweep; None: no agent started this process."""
    return environ.get("WANDB_RUN_ID") if environ.get("WANDB_SWEEP_ID") else None


def has_key() -> bool:
    """Whether W&B can log in: a key in the environment, or an entry for its host in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        entries = netrc.netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser())
    except (OSError, netrc.NetrcParseError):
        return False
    entry = entries.authenticators(host)
    return entry is not None and bool(entry[2])


def wrong_tracking(config: TrackingConfig, environ: Mapping[str, str]) -> list[UserError]:
    """Settings that make no sense, each with what does."""
    found = []
    if config.wandb not in ("", *MODES):
        problem = f"is none of {', '.join(MODES)}"
        found.append(UserError(f"tracking.wandb={config.wandb}", problem, "tracking.wandb=offline"))
    elif mode(config, environ) not in MODES:
        problem = f"is none of {', '.join(MODES)}"
        found.append(UserError(f"WANDB_MODE={environ['WANDB_MODE']}", problem, "WANDB_MODE=offline"))
    elif trial(environ) and mode(config, environ) != ONLINE:
        where = f"tracking.wandb={config.wandb}" if config.wandb else f"WANDB_MODE={environ['WANDB_MODE']}"
        problem = "a sweep that hears nothing of its trials gives the same one to several agents"
        found.append(UserError(where, problem, "tracking.wandb=online, or unset WANDB_SWEEP_ID to run it by itself"))
    for tag in config.tags:
        if not 1 <= len(tag) <= LONGEST_TAG:
            problem = f"W&B takes tags of 1 to {LONGEST_TAG} characters, this one has {len(tag)}"
            found.append(UserError(f"tracking.tags=[{tag[:20]}…]", problem, "shorten it"))
    for name in config.also:
        if name not in OTHERS:
            near = get_close_matches(name, OTHERS, n=1, cutoff=0.0)[0]
            problem = f"'{name}' is none of {', '.join(OTHERS)}"
            found.append(UserError(f"tracking.also=[{','.join(config.also)}]", problem, f"tracking.also=[{near}]"))
    if "tensorboard" in config.also and find_spec("tensorboard") is None:
        remedy = "pip install 'emohead[tensorboard]'"
        found.append(UserError("tracking.also=[tensorboard]", "the package tensorboard is not installed", remedy))
    return found
