"""Each shipped size of each stage: parameters, multiply-adds, memory. Counted, not timed.

    python benchmarks/sizes.py             prints the table
    python benchmarks/sizes.py --results   and puts it into docs/results.md

Multiply-adds (MAC) are those of convolutions and matrix products (torch's FlopCounterMode, halved), for one item.
Memory is what a forward pass in training keeps for its backward pass, one sample, in float32; weights not counted.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from emohead.models.timing import FPS, MOTION_WINDOW, SAMPLES_PER_FRAME
from emohead.trainers.run.meter import WorkCounter
from emohead.trainers.stage import Stage
from overhead import make_batch, make_stage
from tables import put_into_results
from torch import Tensor, nn

SIZES = {  # pixels of a frame by shipped size; those of the face stage
    "emotion": {"debug": 128, "small": 256, "base": 256},
    "motion": {"debug": 128, "small": 256, "base": 256},
    "face": {"debug": 128, "small": 256, "base": 256, "base-512": 512},
    "distill": {"debug": 128, "small": 256, "base": 256},
}
SECOND = FPS  # frames


def gmac(call: Callable[[], Any]) -> float:
    torch.backends.mha.set_fastpath_enabled(False)  # which is not counted
    with WorkCounter() as counter, torch.no_grad():
        call()
    return counter.get_total_flops() / 2e9


def kept_bytes(stage: Stage, batch: dict[str, Any]) -> int:
    """Bytes that the losses of a batch keep for the backward pass, weights and buffers left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*stage.parameters(), *stage.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = stage.losses(batch)  # held, so that no address is used twice
    del losses
    return sum(kept.values())


def parameters(network: nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def work(name: str, stage: Stage) -> str:
    """Multiply-adds of one item, in words."""
    network: Any = stage.network.eval()
    speech = torch.zeros(1, SECOND * SAMPLES_PER_FRAME)
    if name == "emotion":
        picture = torch.zeros(1, 3, stage.facts.size, stage.facts.size)
        parts = {
            "a second of speech": lambda: network.encode_speech(speech),
            "a picture": lambda: network.encode_image(picture),
            "a text": lambda: network.encode_text(["a very happy face"]),
        }
        return ", ".join(f"{gmac(call):.3g} {what}" for what, call in parts.items())
    if name == "motion":
        emotion, identity = torch.zeros(1, network.config.emotion_dim), torch.zeros(1, network.config.identity_dim)
        return f"{gmac(lambda: network(speech, emotion, identity)):.3g} a second of speech"
    face = network.face if name == "distill" else network
    portrait = torch.zeros(1, 3, face.config.size, face.config.size)
    with torch.no_grad():
        features = face.encode_portrait(portrait)
    window = torch.zeros(1, MOTION_WINDOW, face.config.motion_dim)
    frame, once = gmac(lambda: face(features, window)), gmac(lambda: face.encode_portrait(portrait))
    words = f"{frame:.3g} a frame, {once:.3g} a portrait"
    if name == "face":
        return words
    emotion, identity = torch.zeros(1, network.motion.config.emotion_dim), features.identity
    second = gmac(lambda: (network.emotion_from_speech(speech), network.motion(speech, emotion, identity)))
    return f"{words}, {second:.3g} a second of speech"


def rows() -> list[str]:
    lines = [
        "| stage | size | parameters | GMAC | memory a sample |",
        "|---|---|---:|---|---:|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for size in ("debug", "small", "base", "base-512"):
            for name, pixels in SIZES.items():
                if size not in pixels:
                    continue
                stage = make_stage(name, Path(folder), size=size, pixels=pixels[size])
                batch = make_batch(name, 2, pixels=pixels[size])
                memory = kept_bytes(stage.train(), batch) / 2 / 2**20
                weights = f"{parameters(stage.network):.2f} M"
                lines.append(f"| `{name}` | {size} | {weights} | {work(name, stage)} | {memory:,.0f} MiB |")
                print(lines[-1], flush=True)
                if size in ("debug", "small", "base") and name != "distill":
                    stage.export(Path(folder) / f"{name}.safetensors", {})
    head, body = lines[:2], lines[2:]
    order = list(SIZES)
    return head + sorted(body, key=lambda line: order.index(line.split("`")[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    table = "\n".join(rows())
    print("\n" + table)
    if options.results:
        put_into_results("sizes", table)


if __name__ == "__main__":
    main()
