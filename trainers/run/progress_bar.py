"""Steps, loss, samples a second and time left: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

INTERVAL = 0.1  # seconds between two looks at the loss
QUIET_INTERVAL = 30  # seconds between lines if there is no terminal
Show = Callable[[int, int, str], None]  # done, in all, a note


class ProgressLine:
    """A bar of its own; or, if the run is a part of something with a bar, calls of `show`."""

    def __init__(self, label: str, max_steps: int, show: Show | None = None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.console = Console(file=sys.stderr)
        self.bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console, transient=True)
        self.label = label
        self.max_steps = max_steps
        self.told = show
        self.started = self.last_line = self.shown = time.monotonic()
        self.first_step = 0

    def start(self, step: int) -> None:
        self.started = self.last_line = time.monotonic()
        self.first_step = step
        if self.told:
            self.told(step, self.max_steps, "")
        elif self.console.is_terminal:
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.max_steps, completed=step, note="")

    def show(self, step: int, loss: Tensor, batch_size: int) -> None:
        """After a step on a global batch. The loss is read when it is shown: reading it waits for the GPU."""
        if time.monotonic() - self.shown < INTERVAL and step < self.max_steps:
            return
        self.shown = time.monotonic()
        seconds, steps = self.shown - self.started, step - self.first_step
        note = f"loss {float(loss):.3f}  {steps * batch_size / seconds:.1f} samples/s"
        if self.told:
            self.told(step, self.max_steps, note)
        elif self.console.is_terminal:
            self.bar.update(self.task, completed=step, note=note)
        elif time.monotonic() - self.last_line > QUIET_INTERVAL or step == self.max_steps:
            self.last_line = time.monotonic()
            left = seconds / max(1, steps) * (self.max_steps - step)
            self.console.print(f"{self.label}: step {step}/{self.max_steps}  {note}  {left:.0f} s left", soft_wrap=True)

    def stop(self) -> None:
        self.bar.stop()
