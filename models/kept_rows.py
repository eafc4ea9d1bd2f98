"""What is found for a sentence, kept: the sentences of a training come again and again."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

LIMIT = 20_000  # sentences; beyond it the store is emptied


class KeptRows:
    """A row of numbers for each sentence.

    Each is found for its sentence alone: the same to the last digit, whatever else is asked for, and in what order.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Tensor] = {}
        self.state: Hashable = None

    def get(self, sentences: list[str], find: Callable[[str], Tensor], state: Hashable = None) -> Tensor:
        """Rows (B, ...) of B sentences. Rows that were kept in another `state` are found anew."""
        if state != self.state or len(self.rows) > LIMIT:
            self.rows, self.state = {}, state
        for sentence in sentences:
            if sentence not in self.rows:
                with torch.inference_mode(False), torch.no_grad():  # training may want them after a validation
                    self.rows[sentence] = find(sentence)
        return torch.stack([self.rows[sentence] for sentence in sentences])
