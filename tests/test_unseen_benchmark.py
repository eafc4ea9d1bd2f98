"""The benchmark of unseen emotions: its folds, and what it makes of their figures."""

from itertools import chain
from types import ModuleType

import pytest
from emohead.apps.evaluation_retrieval import DIRECTIONS
from emohead.datamodules.sample import EMOTIONS

from .conftest import ROOT


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import unseen

    return unseen


def fold(*held_out: str, **figures: float) -> dict:
    return {"unseen": list(held_out), "metrics": {f"{name}_top1": value for name, value in figures.items()}}


def test_every_emotion_but_neutral_is_held_out(unseen: ModuleType) -> None:
    assert len(unseen.FOLDS) == 5
    assert all(len(set(pair)) == 2 for pair in unseen.FOLDS)
    assert set(chain(*unseen.FOLDS)) == set(EMOTIONS) - {"neutral"}


def test_means_are_over_folds_that_all_have_a_figure(unseen: ModuleType) -> None:
    folds = [fold("fear", "sad", a=0.2, b=1.0), fold("happy", "angry", a=0.4)]
    assert unseen.summary(folds) == {"a_top1": {"mean": pytest.approx(0.3), "sd": pytest.approx(0.1414, abs=1e-4)}}
    assert unseen.summary(folds[:1])["b_top1"] == {"mean": 1.0, "sd": 0.0}


def test_the_tables_have_names_and_descriptions_in_every_direction(unseen: ModuleType) -> None:
    groups = {"seen": 0.9, "unseen": 0.1, "harmonic": 0.18}
    figures = {f"{group}_{a}_{b}": value for group, value in groups.items() for a, b in DIRECTIONS}
    folds = [fold("fear", "sad", **figures), fold("happy", "angry", **figures)]
    lines = unseen.table_of_directions(unseen.summary(folds), 2).splitlines()
    assert lines[0] == "| found, top-1 of 8, 2 folds | seen | unseen | harmonic mean |"
    assert len(lines) == 2 + len(DIRECTIONS) == 16
    assert "| name → image | 0.90 ± 0.00 | 0.10 ± 0.00 | 0.18 ± 0.00 |" in lines
    assert "| voice → description | 0.90 ± 0.00 | 0.10 ± 0.00 | 0.18 ± 0.00 |" in lines
    lines = unseen.table_of_folds(folds).splitlines()
    assert lines[2:] == ["| fear, sad | 0.10 | 0.10 | 0.10 | 0.10 |", "| happy, angry | 0.10 | 0.10 | 0.10 | 0.10 |"]
