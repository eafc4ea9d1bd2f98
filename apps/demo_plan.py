"""How much of everything a demo makes, and how long that will take on this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..datamodules.dataset.manifest import MANIFEST
from ..models.audio import Block
from ..models.face import FaceGenerator, FaceGeneratorConfig
from ..models.face_model import POSE_DIM
from ..models.timing import MOTION_WINDOW
from ..trainers.all_stages import STAGES
from ..trainers.config import load_config
from ..trainers.engines.precision import REDUCED, settled
from ..trainers.run.checkpoints import Checkpoints
from ..trainers.run.cpu import spare_cpu


@dataclass(frozen=True)
class Plan:
    """One size of the demo."""

    name: str
    corpus: dict[str, int]
    stages: dict[str, list[str]] = field(default_factory=dict)  # changes of a stage's debug configuration
    not_shown: str = ""  # what this size does not show

    def overrides(self, stage: str) -> list[str]:
        return self.stages.get(stage, [])

    def steps(self, stage: str) -> int:
        config: Any = load_config(STAGES[stage].config_type, [Path(f"{stage}-debug")], self.overrides(stage))
        return config.trainer.max_steps


def short(steps: int, *changes: str) -> list[str]:
    """Changes for so few steps, with a validation halfway and at the end."""
    return [f"trainer.max_steps={steps}", f"trainer.val_every={steps // 2}", *changes]


FULL = Plan(
    "full",
    {"identities": 210, "clips": 630, "frames": 40, "size": 128, "val_identities": 6, "test_identities": 40},
)
QUICK = Plan(
    "quick",
    {"identities": 56, "clips": 180, "frames": 40, "size": 128, "val_identities": 2, "test_identities": 10},
    {"emotion": short(120), "motion": short(70), "face": short(90, "data.batch_size=6"), "distill": short(50)},
    not_shown="what the method reaches: after so few steps on so little data faces hardly move and emotions get mixed "
    "up, so it has no targets; `emohead demo` shows that",
)
TWO_STEPS = short(2, "trainer.log_every=1", "data.batch_size=4", "data.num_workers=0")
TINY_FACE = ["network.size=64", "network.channels=[16,16,16,8]", "discriminator.channels=[8,16,16,16,16]"]
TINY_STUDENT = ["network.face.size=64", "network.face.channels=[16,16,8,8]"]
TINY = Plan(
    "tiny",
    {"identities": 4, "clips": 88, "frames": 30, "size": 64, "val_identities": 1, "test_identities": 1},
    {
        "emotion": TWO_STEPS,
        "motion": TWO_STEPS,
        "face": [*TWO_STEPS, *TINY_FACE],
        "distill": [*TWO_STEPS, *TINY_STUDENT],
    },
    not_shown="anything but that the chain works: each stage does two steps",
)


def stage_overrides(out: Path, stage: str, exports: dict[str, Path], *, seed: int) -> list[str]:
    """Data, run folder and the exports that a stage starts from."""
    overrides = [f"data.shards=[{out / 'data'}]", f"run={out / stage}", f"seed={seed}"]
    made = {STAGES[name].kind: path for name, path in exports.items()}
    return overrides + [f"{start.key}={made[start.kind]}" for start in STAGES[stage].starts_from if start.needed]


# ---------------------------------------------------------------------------------------------- time

# Seconds of the probes on the machine that the seconds of `work` are of: two cores of an EPYC (Zen 4) kept to AVX2, all
# in 32-true. On other machines a unit of work takes longer or shorter as its probe does.
PROBE_SECONDS = {"draw": 0.039, "tokens": 0.027, "maps": 0.27}


@dataclass(frozen=True)
class Work:
    """A part of the demo: how much work it is, and of which kind."""

    like: str  # the probe whose pace it has
    units: float
    seconds: float  # of a unit, on the machine of PROBE_SECONDS
    start: float = 0.0  # seconds before the first


def work(plan: Plan) -> dict[str, Work]:
    """The parts of a demo in their order."""
    frames = plan.corpus["clips"] * plan.corpus["frames"]
    test_clips = plan.corpus["clips"] * plan.corpus["test_identities"] / plan.corpus["identities"]
    return {
        "corpus": Work("draw", frames, 0.0026, 5),
        "emotion": Work("tokens", plan.steps("emotion"), 0.158, 6),
        "motion": Work("tokens", plan.steps("motion"), 0.19, 6),
        "face": Work("maps", plan.steps("face"), 0.61, 6),
        "distill": Work("maps", plan.steps("distill"), 0.5, 6),
        "videos": Work("maps", 3, 1.5, 2),
        "evaluation": Work("maps", test_clips, 0.3, 3),
    }


def seconds(plan: Plan, pace: dict[str, float]) -> dict[str, float]:
    """How long each part takes from its beginning."""
    return {name: part.start + part.units * part.seconds * pace[part.like] for name, part in work(plan).items()}


def done(plan: Plan, out: Path) -> dict[str, float]:
    """The share of each part that a demo which was stopped has done."""
    shares = {name: min(1.0, steps_done(out / name) / plan.steps(name)) for name in STAGES}
    corpus = float((out / "data" / MANIFEST).exists())
    return dict.fromkeys(work(plan), 0.0) | shares | {"corpus": corpus}


def steps_done(run: Path) -> int:
    return max(Checkpoints(run / "checkpoints").steps(), default=0)


def measure_pace() -> dict[str, float]:
    """How much longer this machine takes than that of PROBE_SECONDS, for each kind of work; takes seconds."""
    if not torch.cuda.is_available():
        spare_cpu()
    return {name: fastest(probe()) / PROBE_SECONDS[name] for name, probe in PROBES.items()}


def fastest(step: Callable[[], object], repeats: int = 4) -> float:
    """Seconds of the fastest of a few calls, the first of which warms up and does not count."""
    step()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        found.append(time.perf_counter() - started)
    return min(found)


def draw_probe() -> Callable[[], object]:
    """A short clip of the corpus: NumPy, OpenCV, Python."""
    from ..datamodules.synthetic.corpus import Script, SyntheticConfig, make_clip

    config = SyntheticConfig(frames=10)
    return lambda: make_clip(Script(config, 0, 0, "happy", 2, "train"))


def tokens_probe() -> Callable[[], object]:
    """A training step of transformer blocks, of the sizes and in the precision that emotion and motion have."""
    device = training_device()
    blocks = nn.Sequential(*(Block(dim=64, heads=4) for _ in range(4))).to(device)
    x = torch.randn(32, 40, 64, device=device)
    return lambda: trained_step(blocks, lambda: blocks(x), "32-true")


def maps_probe() -> Callable[[], object]:
    """A training step of the face generator at its default size, which face and distill resemble."""
    config = FaceGeneratorConfig(motion_dim=4 + POSE_DIM, identity_dim=3)
    device = training_device()
    network = FaceGenerator(config).to(device)
    portrait = torch.rand(4, 3, 128, 128, device=device)
    window = torch.randn(4, MOTION_WINDOW, config.motion_dim, device=device)
    return lambda: trained_step(network, lambda: network(network.encode_portrait(portrait), window).frame, "auto")


def training_device() -> torch.device:
    """The device on which a stage of the demo is trained."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained_step(network: nn.Module, forward: Callable[[], torch.Tensor], precision: str) -> float:
    """Forward and backward pass -> the sum of a gradient; reading it waits until all work is done."""
    dtype = REDUCED.get(settled(precision, "auto"))
    with torch.autocast(training_device().type, dtype=dtype, enabled=dtype is not None):
        loss = forward().float().square().mean()
    loss.backward()
    total = float(next(p.grad for p in network.parameters() if p.grad is not None).sum())
    network.zero_grad(set_to_none=True)
    return total


PROBES = {"draw": draw_probe, "tokens": tokens_probe, "maps": maps_probe}
