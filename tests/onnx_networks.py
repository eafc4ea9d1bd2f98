"""Tiny ONNX networks whose answers are known, in place of those that users bring."""

from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

BRIGHTNESS = 10  # of 255, for each unit of log energy


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


def save_colours(path: Path) -> Path:
    """Mean colour of a picture, as FID's features."""
    return save(path, [mean("x", [2, 3])], {"x": ("b", 3, 299, 299)})


def save_pixels(path: Path) -> Path:
    """All values of a face, as its embedding."""
    return save(path, [helper.make_node("Flatten", ["x"], ["out"])], {"x": ("b", 3, 112, 112)})


def save_sync(folder: Path, *, values: int = 5) -> Path:
    """Face: mean blue of each frame of a window; audio: mean log energy of each frame, as brightness."""
    face = [
        helper.make_node("Gather", ["x", "blue"], ["channel"], axis=1),  # the first in BGR
        mean("channel", [2, 3], "each"),
        helper.make_node("Slice", ["each", "zero", "values", "one"], ["out"]),
    ]
    audio = [
        helper.make_node("Gather", ["x", "energy"], ["track"], axis=2),  # (B, 1, 20)
        helper.make_node("Reshape", ["track", "frames"], ["framed"]),
        mean("framed", [2], "each"),
        helper.make_node("Mul", ["each", "brightness"], ["out"]),
    ]
    bounds = {"zero": np.array([0]), "values": np.array([values]), "one": np.array([1])}
    save(folder / "face.onnx", face, {"x": ("b", 3, 5, 224, 224)}, blue=np.array(0), **bounds)
    constants = {"energy": np.array(0), "frames": np.array([0, 5, 4]), "brightness": np.float32(BRIGHTNESS)}
    save(folder / "audio.onnx", audio, {"x": ("b", 1, 13, 20)}, **constants)
    return folder
