"""Progress: a bar with the time left if there is a terminal, a closing line if there is none."""

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

Show = Callable[[int, int, str], None]  # done, in all, a note

LINE_SECONDS = 60.0  # between lines in a log
SURE_SECONDS = 20.0  # an expectation weighs as much as this much time seen


def one_of(count: int, number: int, show: Show) -> Show:
    """For the `number`-th of `count` equal pieces of work: tells `show` how far all of them are."""
    return lambda done, total, note: show(number * total + done, count * total, note)


@contextmanager
def progress_bar(label: str, total: int, show: Show | None = None) -> Iterator[Callable[..., None]]:
    """Yields `advance(n, note="")`: moves a bar of its own, or calls `show` of a bar that this is a part of."""
    if show:
        sofar = 0

        def tell(n: int = 1, note: str = "") -> None:
            nonlocal sofar
            sofar += n
            show(sofar, total, note)

        yield tell
        return
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
    """A progress callback `(done, total, label)`: a bar for each pass; lines if there is no terminal."""

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


class Parts:
    """One bar over parts of known length: where it stands, what goes on, and the time left for all of it.

    The parts' lengths are expectations in seconds. Finished parts correct those to come: a machine that took
    twice as long so far is expected to do so to the end.

    Args:
        expected: seconds of each part, in their order.
        done: the share of a part that is done already, of a run that was stopped.
    """

    def __init__(self, label: str, expected: dict[str, float], done: dict[str, float]) -> None:
        self.label, self.expected, self.done = label, expected, done
        self.console = Console(file=sys.stderr)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        fields = (TextColumn("{task.fields[left]}"), TextColumn("{task.fields[note]}"))
        self.bar = Progress(*columns, *fields, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task(label, total=sum(expected.values()), left="", note="")
        self.over: dict[str, float] = {}  # parts that have ended, and what they took
        self.spoken = 0.0

    def __enter__(self) -> "Parts":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    @contextmanager
    def part(self, name: str) -> Iterator[Show]:
        """Yields the function to call while the part goes on."""
        started, self.spoken = time.monotonic(), 0.0

        def show(done: int, total: int, note: str = "") -> None:
            share = max(self.done[name], done / max(1, total))
            self.move(name, share, time.monotonic() - started, f"{name} {done}/{total}  {note}")

        yield show
        self.over[name] = time.monotonic() - started
        self.console.print(f"{name}: {self.over[name]:.0f} s", soft_wrap=True, highlight=False)

    def move(self, name: str, share: float, seconds: float, note: str) -> None:
        left = self.seconds_left(name, share, seconds)
        whole = dict.fromkeys(self.over, 1.0) | {name: share}
        done = sum(value * whole.get(part, self.done[part]) for part, value in self.expected.items())
        told = f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left"
        self.bar.update(self.task, completed=done, left=told, note=note)
        if not self.console.is_terminal and time.monotonic() > self.spoken + LINE_SECONDS:
            self.spoken = time.monotonic()
            percent = 100 * done / max(1e-9, sum(self.expected.values()))
            self.console.print(f"{self.label}: {percent:.0f} %, {told}  {note}", soft_wrap=True, highlight=False)

    def seconds_left(self, name: str, share: float, seconds: float) -> float:
        """Seconds left for all parts, when one is at `share` after `seconds` in this start."""
        own = self.expected[name]
        rest = {part: (1 - self.done[part]) * value for part, value in self.expected.items()}
        seen = (share - self.done[name]) * own
        overall = pace(sum(self.over.values()) + seconds, sum(rest[part] for part in self.over) + seen)
        later = sum(value for part, value in rest.items() if part != name and part not in self.over)
        return (1 - share) * own * pace(seconds, seen, overall) + later * overall


def pace(taken: float, expected: float, before: float = 1.0) -> float:
    """How many times as long as expected a part takes: `before` at first, then more and more the time seen so far."""
    return (taken + SURE_SECONDS * before) / (expected + SURE_SECONDS)
