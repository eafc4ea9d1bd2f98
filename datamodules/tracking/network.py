"""The tracker's networks, run by LiteRT on one core. `networks/README.md` says where they come from."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...models.errors import UserError

FOLDER = Path(__file__).parent / "networks"


class Network:
    """One network file. Call it with its inputs, and it gives its outputs, float32, in the file's order."""

    def __init__(self, name: str) -> None:
        with _quiet():
            self._interpreter = _interpreter()(str(FOLDER / name), num_threads=1)
            self._interpreter.allocate_tensors()
        self._inputs = [entry["index"] for entry in self._interpreter.get_input_details()]
        self._outputs = [entry["index"] for entry in self._interpreter.get_output_details()]

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, value)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _interpreter() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        remedy = "pip install 'emohead[prepare]'"
        raise UserError("ai-edge-litert", f"is needed to track faces ({error})", remedy) from None
    return Interpreter


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep LiteRT's start-up messages, which no setting silences, off the terminal."""
    saved, void = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(void, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(void)
