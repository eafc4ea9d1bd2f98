"""Progress on the terminal: a bar with time left where there is one, a closing line where there is none."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS = 60.0  # between lines in a log


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[..., None]]:
    """Yields `advance(n, note="")`."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        started, done = time.monotonic(), 0

        def count(n: int = 1, note: str = "") -> None:
            nonlocal done
            done += n

        yield count
        console.print(f"{label}: {done}/{total} in {time.monotonic() - started:.1f} s", soft_wrap=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        task = bar.add_task(label, total=total, note="")

        def advance(n: int = 1, note: str = "") -> None:
            bar.update(task, advance=n, note=note)

        yield advance


class Speed(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


class Follow:
    """A progress callback `(done, total, label)`: a bar for each pass; lines where there is no terminal."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.tasks: dict[str, TaskID] = {}
        self.spoken, self.line = 0.0, ""

    def __enter__(self) -> "Follow":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def __call__(self, done: int, total: int, label: str) -> None:
        name = label.partition(",")[0]  # "track, 3 rejected" goes on with the bar of "track"
        if name not in self.tasks:
            self.tasks[name] = self.bar.add_task(label, total=total)
        self.bar.update(self.tasks[name], completed=done, total=total, description=label)
        line = f"{label}: {done}/{total}"
        due = done == total or time.monotonic() > self.spoken + LINE_SECONDS
        if not self.console.is_terminal and due and line != self.line:
            self.spoken, self.line = time.monotonic(), line
            self.console.print(line, soft_wrap=True, highlight=False)
