"""Ending a run early because others like it are better: all ranks leave together, at the end of the next step."""

from collections.abc import Callable

VERDICT = "pruned.json"  # in the run folder of a run that was ended so: its step and the reason

# Called on rank 0 after a validation with the step and its figures (val/...): why the run need not go on, or None.
Watch = Callable[[int, dict[str, float]], str | None]


class Pruned(Exception):
    """The run was ended early, since others like it are better."""

    def __init__(self, step: int) -> None:
        super().__init__(f"pruned at step {step}: others of its sweep are better")
        self.step = step
