"""Sweep files: W&B's format, each shipped file, and what is refused before anything starts."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from emohead.models.errors import UserError
from emohead.trainers.config import load_config
from emohead.trainers.sweeps.file import read_sweep, trial_config
from emohead.trainers.sweeps.schema import schema

SHIPPED = sorted((Path(__file__).parents[1] / "configs" / "sweeps").glob("*.yaml"))
GOOD = """
program: emohead
method: bayes
metric: {name: val/lip_loss, goal: minimize}
run_cap: 8
early_terminate: {type: hyperband, min_iter: 1, eta: 3}
command: [emohead, train, motion, -c, motion-debug, trainer.val_every=20, "${args_no_hyphens}"]
parameters:
  optimizer.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-2}
  gain: {values: [0.1, 0.5]}
"""

# What is replaced in GOOD, by what, and the line that tells of it.
BROKEN = [
    ("method: bayes", "methd: bayes", "unknown key 'methd'; did you mean 'method'?"),
    ("method: bayes", "method: tpe", "method: 'tpe' is none of grid, random, bayes; did you mean"),
    ("method: bayes\n", "", "lacks the key 'method'"),
    ("run_cap: 8\n", "", "run_cap: without it, method bayes never ends; run_cap: 24"),
    ("run_cap: 8", "run_cap: 0", "run_cap: 0 is less than the minimum"),
    ("name: val/lip_loss", "name: val/lips_loss", "no figure of a validation of motion; did you mean 'val/lip_loss'?"),
    ("name: val/lip_loss", "name: train/loss", "did you mean 'val/loss'?"),
    ("name: val/lip_loss, goal: minimize", "name: val/loss, goal: maximize", "would look for the worst val/loss"),
    ("goal: minimize", "goal: min", "metric.goal: 'min' is none of minimize, maximize; did you mean minimize?"),
    ("optimizer.lr:", "optimizer.rl:", "unknown key 'optimizer.rl'; did you mean 'optimizer.lr'?"),
    ("gain: {values: [0.1, 0.5]}", "gain: {values: []}", "parameters.gain.values: "),
    ("gain: {values: [0.1, 0.5]}", "gain: {values: [0.1, null]}", "None arrives at the command as the text 'None'"),
    ("gain: {values: [0.1, 0.5]}", "gain: {values: [0.1, loud]}", "parameters.gain: "),
    ("gain: {values: [0.1, 0.5]}", "gain: {value: [0.1, 'None']}", "None arrives at the command as the text 'None'"),
    ("gain: {values: [0.1, 0.5]}", "gain: {min: 0.5, max: 0.1}", "no number lies between min=0.5 and max=0.1"),
    ("gain: {values: [0.1, 0.5]}", "gain: {min: 0.5}", "parameters.gain: distribution uniform needs 'max'"),
    ("gain: {values: [0.1, 0.5]}", "run: {values: [a, b]}", "each trial has a run folder of its own"),
    ("min: 1.0e-4", "min: 1e-4", "'1e-4' is text to YAML, not a number; write 1.0e-4"),
    ("min: 1.0e-4", "min: 0", "parameters.optimizer.lr: min=0 has no logarithm"),
    ("min: 1.0e-4, max: 1.0e-2", "min: -1.0, max: 1.0", "min=-1.0 has no logarithm"),
    ("log_uniform_values, min: 1.0e-4", "uniform, min: -1.0", "optimizer.lr=-1.0 must be a number above 0"),
    ("log_uniform_values", "loguniform", "'loguniform' is none of"),
    ("method: bayes", "method: grid", "parameters.optimizer.lr: log_uniform_values has no end of values for a grid"),
    ("motion, -c", "motoin, -c", "'motoin': no such stage; one of emotion, motion, face, distill"),
    ("motion-debug", "motion-huge", "no such config file"),
    ("${args_no_hyphens}", "${args}", "command: ${args} makes no key=value"),
    (', "${args_no_hyphens}"', "", "command: has no ${args_no_hyphens}"),
    ("[emohead, train,", "[python, train.py,", "command: begins with 'python train.py'"),
    ("trainer.val_every=20", "\"${envvar:NOT_THERE_AT_ALL}\"", "the environment has no NOT_THERE_AT_ALL"),
    ("min_iter: 1", "min_iter: 9", "its first rung is validation 9, a trial has 9; trainer.val_every=6"),
    ("min_iter: 1, ", "", "early_terminate: lacks min_iter or max_iter"),
    ("type: hyperband", "type: median", "early_terminate.type: 'median' is none of hyperband"),
    ("trainer.val_every=20", "run=runs/x", "each trial has a run folder of its own"),
    ("trainer.val_every=20", "gain=0.3", "gain is a parameter of"),
    ("parameters:", "parameters: [", "not readable as YAML"),
]  # fmt: skip


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def test_a_good_file(tmp_path: Path):
    sweep = read_sweep(written(tmp_path, GOOD), ["optimizer.beta1=0.8"])
    assert sweep.command == ["motion", "-c", "motion-debug", "trainer.val_every=20", "optimizer.beta1=0.8"]
    assert (sweep.num_trials, sweep.max_steps, sweep.maximize) == (8, 180, False)
    assert sweep.early_end
    assert (sweep.early_end.first, sweep.early_end.eta) == (20, 3)


@pytest.mark.parametrize(("old", "new", "told"), BROKEN, ids=[told for _, _, told in BROKEN])
def test_a_broken_file_is_refused(tmp_path: Path, old: str, new: str, told: str):
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        read_sweep(written(tmp_path, GOOD.replace(old, new, 1)), [])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_file_is_taken(path: Path):
    sweep = read_sweep(path, [])
    stage, size = path.stem.split("-")[:2]
    assert sweep.stage.name == stage
    assert Path(f"{stage}-{size}") in sweep.configs
    assert read_sweep(Path(path.stem), []).spec == sweep.spec


@pytest.mark.parametrize("path", [path for path in SHIPPED if "-base" in path.stem], ids=lambda path: path.stem)
def test_a_trial_of_base_size_is_as_short_as_its_file_says(path: Path):
    sweep = read_sweep(path, [])
    stage = load_config(sweep.stage.config_type, sweep.configs, [])
    share = re.search(r"a run of a (quarter|fifth|tenth) of ", path.read_text())
    assert share
    assert sweep.max_steps * {"quarter": 4, "fifth": 5, "tenth": 10}[share[1]] == stage.trainer.max_steps


def test_trials_of_the_face_at_base_size_have_no_adversary():
    assert trial_config(read_sweep(Path("face-base"), []), []).loss.adversarial_loss == 0


def test_every_stage_has_sweeps_of_debug_and_base_size():
    names = {path.stem for path in SHIPPED}
    assert {
        f"{stage}-{size}" for stage in ("emotion", "motion", "face", "distill") for size in ("debug", "base")
    } <= names


# In the forms that W&B's documentation shows (sweep configuration options, structure, commands, early termination).
WANDB_EXAMPLES = """
program: train.py
method: bayes
metric: {name: validation_loss, goal: minimize}
parameters:
  learning_rate: {min: 0.0001, max: 0.1}
  optimizer: {values: [adam, sgd]}
---
program: train.py
name: sweepdemo
method: bayes
metric: {goal: minimize, name: validation_loss}
parameters:
  learning_rate: {min: 0.0001, max: 0.1}
  batch_size: {values: [16, 32, 64]}
  epochs: {values: [5, 10, 15]}
  optimizer: {values: [adam, sgd]}
---
program: train.py
method: random
name: sweep
metric: {goal: maximize, name: val_acc}
parameters:
  batch_size: {values: [16, 32, 64]}
  epochs: {values: [5, 10, 15]}
  lr: {max: 0.1, min: 0.0001}
---
method: grid
parameters:
  optimizer:
    parameters:
      learning_rate: {values: [0.01, 0.001]}
      momentum: {value: 0.9}
---
program: train.py
method: random
parameters:
  optimizer: {values: [adam, sgd], distribution: categorical_w_probabilities, probabilities: [0.9, 0.1]}
  dropout: {distribution: normal, mu: 0.5, sigma: 0.1}
  fc_layer_size: {distribution: q_log_uniform_values, q: 8, min: 32, max: 256}
---
program: train.py
method: bayes
metric: {name: val_loss, goal: minimize, target: 0.1}
parameters: {lr: {distribution: uniform, min: 0, max: 0.1}}
early_terminate: {type: hyperband, min_iter: 3}
---
method: bayes
metric: {name: val_loss}
parameters: {lr: {distribution: log_uniform, min: -9.9, max: -2.3}}
early_terminate: {type: hyperband, max_iter: 27, s: 2, eta: 3, strict: true}
---
program: train.py
method: grid
project: sweeps
entity: team
description: all of it
parameters: {seed: {values: [1, 2]}}
command: ["${env}", "${interpreter}", "${program}", "${args}"]
run_cap: 10
controller: {type: local}
---
program: main.py
method: grid
parameters: {batch_size: {value: 8}, flag: {value: true}, nothing: {value: null}}
command: ["${env}", python3, "${program}", --my-value, "${envvar:MY_VALUE}", "${args_no_boolean_flags}"]
"""


@pytest.mark.parametrize("example", list(yaml.safe_load_all(WANDB_EXAMPLES)), ids=range(9))
def test_the_schema_takes_what_wandb_shows(example: dict):
    jsonschema.validate(example, schema())


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(schema())
