"""Tiny ONNX networks whose answers are known, in place of those that users bring."""

from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper


def save(
    path: Path,
    nodes: list[NodeProto],
    inputs: dict[str, tuple[int | str, ...]],
    *,
    kind: int = TensorProto.FLOAT,
    **constants: object,
) -> Path:
    """A model whose output is called "out"; constants are whole numbers for shapes and axes, or float arrays."""
    graph = helper.make_graph(
        nodes,
        "made-up",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("out", kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def mean(source: str, axes: list[int], to: str = "out") -> NodeProto:
    return helper.make_node("ReduceMean", [source], [to], axes=axes, keepdims=0)


def pair(*, size: int | str = "s", batch: int | str = "b") -> dict[str, tuple[int | str, ...]]:
    return {"a": (batch, 3, size, size), "b": (batch, 3, size, size)}


def save_squared(path: Path) -> Path:
    """Mean squared difference of two pictures."""
    difference = [helper.make_node("Sub", ["a", "b"], ["d"]), helper.make_node("Mul", ["d", "d"], ["square"])]
    return save(path, [*difference, mean("square", [1, 2, 3])], pair())
