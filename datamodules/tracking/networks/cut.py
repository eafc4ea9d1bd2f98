"""Make the network files of this folder from the wheel of mediapipe 0.10.21, which need not be installed:

    pip download mediapipe==0.10.21 --no-deps --only-binary :all: --python-version 3.12 --platform manylinux_2_28_x86_64
    python -m emohead.datamodules.tracking.networks.cut mediapipe-0.10.21-*.whl

The network with attention holds operators that LiteRT does not have: they cut patches out of a map of features. It is
divided there, into the network before them and the one after them.
"""

import hashlib
import sys
import zipfile
from pathlib import Path

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

HERE = Path(__file__).parent
WHEEL = "956eb1ebc275c629e61b085b2cab89c3a5b9e93bad1bb107348d98dafb5a4bb5"  # SHA-256
DETECTOR = "mediapipe/modules/face_detection/face_detection_short_range.tflite"
MESH = "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite"

# Numbers of tensors in the file of the mesh.
PICTURE, FEATURES, POINTS, FACE = 0, 35, 186, 710
PATCHES = [199, 200, 201]  # lips, right eye, left eye
REFINED = [684, 687, 693, 690, 696]  # points of them; irises, seen in the patches of the eyes


def part(network: bytes, inputs: list[int], outputs: list[int]) -> bytes:
    """The network file that computes `outputs` from `inputs`, tensors of another network file."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(network, 0))
    (graph,) = model.subgraphs
    needed, operators = set(outputs), list[schema.OperatorT]()
    for operator in reversed(graph.operators):
        if needed & set(map(int, operator.outputs)) - set(inputs):
            operators.insert(0, operator)
            needed |= set(map(int, operator.inputs))
    kept = sorted({int(t) for operator in operators for t in (*operator.inputs, *operator.outputs)} - {-1})
    place = {tensor: number for number, tensor in enumerate(kept)} | {-1: -1}
    codes = sorted({operator.opcodeIndex for operator in operators})
    for operator in operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)
        operator.inputs = [place[int(t)] for t in operator.inputs]
        operator.outputs = [place[int(t)] for t in operator.outputs]
    buffers, model.buffers = model.buffers, [schema.BufferT()]  # by the format the first one is empty
    graph.tensors = [graph.tensors[t] for t in kept]
    for tensor in graph.tensors:
        data = buffers[tensor.buffer]
        tensor.buffer = 0
        if data.data is not None:
            model.buffers.append(data)
            tensor.buffer = len(model.buffers) - 1
    graph.operators, model.operatorCodes = operators, [model.operatorCodes[code] for code in codes]
    graph.inputs, graph.outputs = [place[t] for t in inputs], [place[t] for t in outputs]
    model.metadata = model.signatureDefs = None
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def main() -> None:
    if hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest() != WHEEL:
        sys.exit(f"{sys.argv[1]}: another wheel than the one whose tensors are numbered here")
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        detector, mesh = wheel.read(DETECTOR), wheel.read(MESH)
    (HERE / "face_detection_short_range.tflite").write_bytes(detector)
    (HERE / "face_mesh.tflite").write_bytes(part(mesh, [PICTURE], [POINTS, FACE, FEATURES]))
    (HERE / "face_mesh_refine.tflite").write_bytes(part(mesh, PATCHES, REFINED))


if __name__ == "__main__":
    main()
