"""What trials draw is distributed as W&B describes it."""

import math
from typing import Any

import numpy as np
import optuna
import pytest
from emohead.trainers.sweeps.parameters import grid, read_parameters, words
from scipy import stats

COUNT = 400


def drawn(entry: dict[str, Any]) -> list[Any]:
    (parameter,) = read_parameters({"x": entry})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [parameter.draw(study.ask()) for _ in range(COUNT)]


DISTRIBUTIONS = {
    "uniform": ({"min": 1.0, "max": 3.0}, stats.uniform(1, 2)),
    "log_uniform_values": ({"min": 0.01, "max": 10.0}, stats.loguniform(0.01, 10)),
    "log_uniform": ({"min": -3.0, "max": 1.0}, stats.loguniform(math.exp(-3), math.exp(1))),
    "inv_log_uniform": ({"min": -3.0, "max": 1.0}, stats.loguniform(math.exp(-1), math.exp(3))),
    "inv_log_uniform_values": ({"min": 0.01, "max": 10.0}, stats.loguniform(0.01, 10)),
    "normal": ({"mu": 2.0, "sigma": 3.0}, stats.norm(2, 3)),
    "log_normal": ({"mu": 1.0, "sigma": 0.5}, stats.lognorm(0.5, scale=math.exp(1))),
    "beta": ({"a": 2.0, "b": 5.0}, stats.beta(2, 5)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_draws_of_numbers(name: str):
    given, wanted = DISTRIBUTIONS[name]
    values = drawn({"distribution": name} | given)
    assert stats.kstest(values, wanted.cdf).pvalue > 0.01
    if name.startswith("inv"):
        return
    rounded = drawn({"distribution": f"q_{name}", "q": 0.25} | given)
    np.testing.assert_allclose(rounded, np.round(np.array(values) / 0.25) * 0.25, atol=1e-9)


def test_draws_of_choices():
    assert set(drawn({"min": 2, "max": 4})) == {2, 3, 4}
    assert all(isinstance(value, int) for value in drawn({"distribution": "q_uniform", "min": 16, "max": 64, "q": 16}))
    assert {str(value) for value in drawn({"values": [["audio"], ["text", "audio"], True]})} == {
        "['audio']",
        "['text', 'audio']",
        "True",
    }
    weighed = drawn({"values": ["a", "b", "c"], "probabilities": [0.7, 0.3, 0.0]})
    assert abs(weighed.count("a") / COUNT - 0.7) < 0.07
    assert "c" not in weighed


def test_a_grid_holds_every_combination():
    spec = {
        "a": {"values": [1, 2]},
        "b": {"parameters": {"c": {"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.1}, "d": {"value": 7}}},
        "e": {"min": 4, "max": 5},
    }
    points = grid(list(read_parameters(spec)))
    assert len(points) == 12
    assert points[0] == {"a": 1, "b.c": 0.1, "e": 4}
    assert points[5] == {"a": 1, "b.c": 0.3, "e": 5}


def test_words_are_those_of_an_agent():
    spec = {
        "optimizer": {"parameters": {"lr": {"value": 0.001}, "beta1": {"values": [0.9]}}},
        "data.shards": {"value": ["a"]},
    }
    settings = {"optimizer.lr": 0.001, "optimizer.beta1": 0.9, "data.shards": ["a"]}
    assert words(settings, spec) == ["optimizer={'lr': 0.001, 'beta1': 0.9}", "data.shards=['a']"]
