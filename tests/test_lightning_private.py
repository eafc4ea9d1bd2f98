"""Lightning's private parts are where trainers/lightning_private.py expects them; another version fails here first."""

import signal
from types import SimpleNamespace

import pytorch_lightning as pl
import torch
from emohead.trainers.lightning_private import (
    Launcher,
    go_on_from,
    leave_signals_alone,
    set_launcher,
    validate,
    world_size,
)
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader


class Counter(pl.LightningModule):
    """Counts what Lightning asks of it."""

    def __init__(self, wanted: str = "") -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.automatic_optimization = False
        self.wanted = wanted
        self.validated: list[int] = []  # steps of this fit done before each validation
        self.trained = 0
        self.handlers: list = []

    def on_fit_start(self) -> None:
        if self.wanted == "go on":
            go_on_from(self.trainer, 3)

    def on_train_start(self) -> None:
        self.handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
        if self.wanted == "validate":
            validate(self.trainer)
            assert self.trainer.training

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.trained += 1

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.trained)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Counter, **arguments) -> Counter:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=0, max_epochs=1, **quiet, **arguments)
    leave_signals_alone(trainer)
    trainer.fit(module, DataLoader(torch.zeros(6, 1)), DataLoader(torch.zeros(1, 1)))
    return module


EVERY_FOUR = {"val_check_interval": 4, "check_val_every_n_epoch": None}


def test_validation_follows_the_count_that_a_run_goes_on_from() -> None:
    assert fit(Counter(), **EVERY_FOUR).validated == [4]
    assert fit(Counter("go on"), **EVERY_FOUR).validated == [1, 5]


def test_a_validation_can_be_made_before_the_first_step() -> None:
    found = fit(Counter("validate"), **EVERY_FOUR)
    assert found.validated == [0, 4]
    assert found.trained == 6


def test_lightning_leaves_signals_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    assert fit(Counter()).handlers == before


def test_processes_are_counted_with_and_without_a_trainer() -> None:
    module = Counter()
    assert world_size(module) == 1
    module._trainer = SimpleNamespace(world_size=4)
    assert world_size(module) == 4


def test_a_strategy_starts_processes_by_the_launcher_that_it_is_given() -> None:
    strategy, asked = DDPStrategy(), []
    launcher = Launcher(asked.append, SimpleNamespace(creates_processes_externally=False), 2, 1)
    launcher._call_children_scripts = lambda: asked.append("started")
    set_launcher(strategy, launcher)
    assert strategy.launcher is launcher
    assert launcher.launch(lambda x: x + 1, 1) == 2
    launcher.joined.set()
    assert asked[0] == "started"
    assert launcher.procs == []
