"""The W&B folders that a run has left on this disk, leg by leg, read back from W&B's own records."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emohead.trainers.run.wandb_files import key_of, records


@dataclass
class Leg:
    folder: Path
    run: Any = None  # the record of the run: id, project, group, tags, ...
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)  # as it stands in the end
    metrics: dict[str, Any] = field(default_factory=dict)  # what `define_metric` said, by name
    alerts: list[tuple[str, str]] = field(default_factory=list)  # title and level
    preempting: bool = False
    exit_code: int | None = None  # None: W&B was not told of an end


def legs(run: Path) -> list[Leg]:
    return [leg_of(folder) for folder in sorted((run / "wandb").glob("offline-run-*"))]


def leg_of(folder: Path) -> Leg:
    leg = Leg(folder)
    (path,) = folder.glob("run-*.wandb")
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            leg.run = record.run
            leg.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            leg.rows.append({key_of(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            leg.summary |= {key_of(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "metric":
            leg.metrics[record.metric.name] = record.metric
        elif kind == "alert":
            leg.alerts.append((record.alert.title, record.alert.level))
        elif kind == "preempting":
            leg.preempting = True
        elif kind == "exit":
            leg.exit_code = record.exit.exit_code
    return leg


def steps(found: list[Leg], name: str = "") -> list[int]:
    """W&B's steps of all rows, or of those that have a figure of this name, leg after leg."""
    return [row["_step"] for leg in found for row in leg.rows if not name or name in row]
