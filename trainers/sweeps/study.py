"""The study of a sweep: all its trials, in a folder that workers share.

    journal.log    Optuna's journal: the file, words and seed; trials, their values and states. journal.copy.log is the
                   same again, and sweep.yaml the file for people
    leases/        who works on which trial
    trials/0003/   the run folder of a trial; trials/0003.log is what it printed

All trials are there from the start, waiting, so that however many workers come, none is begun twice and none too many.
What a trial draws follows from the seed, its number, and (method bayes) the trials that have ended by then.
"""

import contextlib
import errno
import os
import secrets
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from ...models.errors import UserError
from ...models.files import written_aside
from .early_end import pruner
from .file import VARIABLE, Sweep, find_sweep, read_sweep
from .journal import JOURNAL, open_storage
from .parameters import words
from .trial import STUDY, Trial

STARTUP = 10  # trials that are drawn at random before others are learned from
SETTINGS, WORDS, REASON = "settings", "words", "reason"  # what is noted of a trial
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
FILE, GIVEN = "sweep.yaml", "settings"  # the sweep file, and the words and seed beside it, as the study knows them
OF_A_WORKER = ("trainer.nodes", "trainer.devices", "trainer.accelerator", "trainer.threads", "data.num_workers")

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class Folder(NamedTuple):
    """A sweep's folder and what is in it."""

    path: Path
    sweep: Sweep
    seed: int
    own: tuple[str, ...] = ()  # key=value of this worker's trials that change no figure: on how much they are trained

    def run(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04d}"

    def log(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04d}.log"

    def trial(self, number: int) -> Trial:
        sweep, run = self.sweep, str(self.run(number).resolve())
        return Trial(str(self.path.resolve()), run, number, sweep.metric, sweep.max_steps, sweep.early_end)

    def open(self) -> optuna.Study:
        return optuna.load_study(study_name=STUDY, storage=open_storage(self.path), pruner=pruner(self.sweep.early_end))


def begin(file: Path, folder: Path, more: list[str], seed: int) -> Folder:
    """Make a sweep's folder, or join the sweep that is in it.

    Raises:
        UserError: the file is no sweep, or another one was begun in the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(folder, "is a file", "--out wants a folder")
    shared, own = [w for w in more if key_of(w) not in OF_A_WORKER], tuple(w for w in more if key_of(w) in OF_A_WORKER)
    sweep, text = read_sweep(file, shared), find_sweep(file).read_text(encoding="utf-8")
    environment = {name: os.environ[name] for name in VARIABLE.findall(text)}
    settings = {"words": shared, "seed": seed, "environment": environment}
    found = Folder(folder, sweep, seed, own)
    if not (folder / JOURNAL).exists():
        make(found, text, settings | {"name": sweep.name})
    known = found.open().user_attrs  # another worker may have been faster, with another sweep
    if known[FILE] != text:
        raise UserError(folder, f"holds a sweep by another file than {file}", "give --out another folder")
    if {key: known[GIVEN][key] for key in settings} != settings:
        others = [f"{name}={value}" for name, value in known[GIVEN]["environment"].items()]
        begun = f"{' '.join([*others, *known[GIVEN]['words']]) or 'no words'} and seed {known[GIVEN]['seed']}"
        raise UserError(folder, f"was begun with {begun}", "give the same, or --out another folder")
    return found


def key_of(word: str) -> str:
    return word.partition("=")[0]


def read_folder(folder: Path) -> Folder:
    """The sweep in a folder. Raises UserError if there is none."""
    if not (folder / JOURNAL).is_file():
        raise UserError(folder, "no sweep is in it", f"wanted is a folder with {JOURNAL}")
    storage = open_storage(folder)
    attributes = {attr for study in storage.get_all_studies() if study.study_name == STUDY for attr in study.user_attrs}
    if not {FILE, GIVEN} <= attributes:
        raise UserError(folder / JOURNAL, "is a journal of Optuna, but of no sweep of emohead", "give another folder")
    known = optuna.load_study(study_name=STUDY, storage=storage).user_attrs
    if not (folder / FILE).is_file():  # its maker was killed in between
        with written_aside(folder / FILE, folder / f"{FILE}.{secrets.token_hex(4)}") as partial:
            partial.write_text(known[FILE], encoding="utf-8")
    settings = known[GIVEN]
    sweep = replace(read_sweep(folder / FILE, settings["words"], settings["environment"]), name=settings["name"])
    return Folder(folder, sweep, settings["seed"])


def make(found: Folder, text: str, settings: dict[str, Any]) -> None:
    """All trials, waiting, in a journal that appears at once; of several workers one makes it."""
    for part in ("trials", "leases", "logs"):
        (found.path / part).mkdir(parents=True, exist_ok=True)
    aside = found.path / f".new.{secrets.token_hex(4)}"
    aside.mkdir()
    try:
        direction = StudyDirection.MAXIMIZE if found.sweep.maximize else StudyDirection.MINIMIZE
        study = optuna.create_study(study_name=STUDY, storage=open_storage(aside), direction=direction)
        study.set_user_attr(FILE, text)
        study.set_user_attr(GIVEN, settings)
        for point in found.sweep.points():
            study.enqueue_trial(point)
        os.link(aside / JOURNAL, found.path / JOURNAL)  # whoever opens it makes its copy
        with written_aside(found.path / FILE) as partial:
            partial.write_text(text, encoding="utf-8")
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        problem = "its file system has no hard links, which workers need to know who is at a trial"
        raise UserError(found.path, problem, "--out FOLDER on another one") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sampler(sweep: Sweep, seed: int, number: int, place: int) -> BaseSampler:
    """What draws the value of a trial's parameter: the same if a worker that draws is killed over it."""
    seed = int(np.random.SeedSequence([seed, number, place]).generate_state(1)[0])
    if sweep.method != "bayes":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)


def claim(study: optuna.Study) -> int | None:
    """Make the next waiting trial a running one; its number, or None if none waits. Only one worker gets each."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another was faster by far
            if study._storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
                return trial.number
    return None


def resume(folder: Folder, study: optuna.Study, number: int) -> tuple[dict[str, Any], list[str]]:
    """Settings and words of a running trial: those it has, or new ones, drawn and noted."""
    known = study.get_trials(deepcopy=False)[number]
    if WORDS in known.user_attrs:
        return known.user_attrs[SETTINGS], known.user_attrs[WORDS]
    study.sampler = sampler(folder.sweep, folder.seed, number, 0)
    trial, settings = optuna.Trial(study, known._trial_id), {}
    for place, parameter in enumerate(folder.sweep.parameters):
        study.sampler = sampler(folder.sweep, folder.seed, number, place)
        settings[parameter.key] = parameter.draw(trial)
    found = words(settings, folder.sweep.spec)
    trial.set_user_attr(SETTINGS, settings)
    trial.set_user_attr(WORDS, found)
    return settings, found


def best(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """The best of the trials that ran to their end."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    return min(done, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)
