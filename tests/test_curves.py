"""Every loss term of the first twenty steps of each stage, kept in curves.json: a refactor must give them again.

EMOHEAD_WRITE_CURVES=1 writes those of the stages that are run; only a change that means to change training may do that.

Processors add numbers in different orders. Two things would make much of it: Adam's small eps, by which the rounding
of a gradient of almost nothing becomes a whole step, and batch statistics of few clips. So emotion and face have a
large eps, and emotion more clips. Between SSE4 and AVX2 terms then part by at most 1e-4, those of emotion and distill
after five steps by 3e-3.
"""

import json
import math
import os
from pathlib import Path

import pytest
from emohead.datamodules.batch import made_up_batch
from emohead.trainers.engines.plain import LossScale, PlainEngine

from .stages import make

KEPT = Path(__file__).parent / "curves.json"
STEPS = 20
ALIKE = {"emotion": 5, "motion": STEPS, "face": STEPS, "distill": 5}  # steps in which processors agree
EPS = {"emotion": 1e-3, "face": 1e-3}
CLIPS = {"emotion": 16}  # in a batch
TOLERANCE = 1e-3  # of a term, in these steps
GROWTH = 2e-3  # of the tolerance, for each step, in those after them
TOTAL = 0.02  # the most that is ever granted to a total


def curves(name: str, folder: Path) -> dict[str, list[float | None]]:
    """The terms that a stage logs at each step, by name; None at a step without that term."""
    stage = make(name, folder).train()
    stage.config.trainer.precision = "32-true"
    for (network, module), optimizer in zip(stage.trained().items(), stage.configure_optimizers(), strict=True):
        for group in optimizer.param_groups:
            group["eps"] = EPS.get(name, group["eps"])
        clip_norm, scale = stage.clip_norm(network), LossScale(False)
        stage.engines[network] = PlainEngine(module, optimizer, clip_norm=clip_norm, scale=scale)
    steps = []
    for step in range(STEPS):
        batch = made_up_batch(name, batch_size=CLIPS.get(name, 4), size=32, seed=step % 3)
        stage.num_batches = step
        stage.training_step(batch, 0)
        steps.append({term: float(value) for term, value in stage.logs.items()})
    return {term: [logged.get(term) for logged in steps] for term in sorted({term for step in steps for term in step})}


def tolerance(name: str, term: str, step: int) -> float:
    if step < ALIKE[name]:
        return TOLERANCE
    return min(GROWTH * (step + 1), TOTAL if term == "loss" else math.inf)


def write(name: str, found: dict[str, list[float | None]]) -> None:
    """A line for each term."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept[name] = {
        term: [None if value is None else float(f"{value:.7g}") for value in values] for term, values in found.items()
    }
    stages = [
        f' "{stage}": {{\n' + ",\n".join(f'  "{term}": {json.dumps(values)}' for term, values in terms.items()) + "\n }"
        for stage, terms in kept.items()
    ]
    KEPT.write_text("{\n" + ",\n".join(stages) + "\n}\n")


@pytest.mark.parametrize("name", list(ALIKE))
def test_the_first_losses_are_as_they_were(name: str, tmp_path: Path) -> None:
    found = curves(name, tmp_path)
    if os.environ.get("EMOHEAD_WRITE_CURVES"):
        return write(name, found)
    kept = json.loads(KEPT.read_text())[name]
    assert found.keys() == kept.keys()
    wrong = [
        f"{term} of step {step}: {value}, kept is {known}"
        for term in kept
        for step, (value, known) in enumerate(zip(found[term], kept[term], strict=True))
        if value != (known if known is None else pytest.approx(known, rel=tolerance(name, term, step), abs=0))
    ]
    assert not wrong
