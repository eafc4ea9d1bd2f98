"""Every touch of Lightning's private parts, and why each is needed. Written for pytorch-lightning 2.6.

tests/test_lightning_private.py fails first if another version has moved one of them.
"""

import threading
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import utilities
from pytorch_lightning.loops.progress import _ProcessedTracker
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

rank_zero_only: Any = utilities.rank_zero_only  # a function that Lightning gives an attribute `rank`, trainer or not


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Lightning's handlers would broadcast from within a signal handler, in the middle of a step. Ours set a flag."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def go_on_from(trainer: pl.Trainer, batches: int) -> None:
    """Lightning validates by its own count of batches, which it restores only from its own checkpoints."""
    counts = trainer.fit_loop.epoch_loop.batch_progress.total
    assert isinstance(counts, _ProcessedTracker)
    counts.ready = counts.started = counts.processed = counts.completed = batches


def validate(trainer: pl.Trainer) -> None:
    """Validate in the middle of a fit: Lightning does so only after a batch of training."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def world_size(module: pl.LightningModule) -> int:
    """Processes of the trainer of a module; `module.trainer` raises if there is none."""
    return module._trainer.world_size if module._trainer else 1


def set_launcher(strategy: DDPStrategy, launcher: "Launcher | None") -> None:
    """DDPStrategy offers no launcher of one's own, and starts processes for one rank too."""
    strategy._launcher = launcher


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine if nobody else does, and calls `look_after` on a thread of its own.

    Lightning would kill all processes at once if one ends, whatever they have to say.
    """

    def __init__(self, look_after: "Callable[[Launcher], None]", *arguments: Any) -> None:
        super().__init__(*arguments)
        self.look_after = look_after
        self.joined = threading.Event()

    def launch(self, function: Callable, *arguments: Any, trainer: Any = None, **keywords: Any) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self.look_after, args=(self,), daemon=True).start()
        return function(*arguments, **keywords)
