"""What is found for a sentence, kept: most sentences of a training come again and again."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

LIMIT = 100_000  # sentences; the oldest go first. A frozen tower's take 2 to 5 kB each


class KeptRows:
    """A row of numbers for each sentence.

    Each is found for its sentence alone: the same to the last digit, whatever else is asked for, and in what order.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Tensor] = {}
        self.state: Hashable = None

    def get(self, sentences: list[str], find: Callable[[str], Tensor], state: Hashable = None) -> Tensor:
        """Rows (B, ...) of B sentences. Rows that were kept in another `state` are found anew."""
        if state != self.state:
            self.rows, self.state = {}, state
        for sentence in sentences:
            if sentence not in self.rows:
                with torch.inference_mode(False), torch.no_grad():  # training may want them after a validation
                    self.rows[sentence] = find(sentence)
        found = torch.stack([self.rows[sentence] for sentence in sentences])
        while len(self.rows) > LIMIT:
            del self.rows[next(iter(self.rows))]
        return found
