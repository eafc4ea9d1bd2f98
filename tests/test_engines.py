"""Engines in two real processes against plain PyTorch in one: two networks, an adversary, its second derivative."""

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from emohead.models.face_loss import gradient_penalty
from emohead.trainers.engines import deepspeed
from emohead.trainers.engines.deepspeed import DeepSpeedEngine, configuration
from emohead.trainers.engines.plain import STATE, Engine, LossScale, PlainEngine
from emohead.trainers.run.watchdog import in_collective
from torch import Tensor, nn

STEPS, RANKS, BATCH, CLIP = 10, 2, 4, 0.5
KINDS = ["plain", "zero0", "zero1", "zero2", "zero3", "zero2-offload", "zero3-offload"]
KINDS += ["zero1-shares", "zero2-shares", "zero2-shares-offload"]  # each rank is sent its share of the gradients
CPU = torch.device("cpu")
Update = Callable[[str, Callable[[], Tensor]], None]


def networks() -> dict[str, nn.Module]:
    """Smooth ones: at the bend of a leaky ReLU, the order of a sum decides over a whole second derivative."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.SiLU(), nn.Conv2d(7, 3, 3, padding=1), nn.Tanh())
    down = [part for a, b in ((8, 12), (12, 16)) for part in (nn.Conv2d(a, b, 4, stride=2, padding=1), nn.SiLU())]
    last = (nn.Conv2d(16, 16, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * 4**2, 1))
    discriminator = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), *down, *last)
    return {"generator": generator, "discriminator": discriminator}


def optimizers(both: dict[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
    # A first moment and an eps for Adam: without them, the sign of a gradient of 1e-9 decides over a whole step.
    settings: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-5, "fused": True}
    return {name: torch.optim.AdamW(network.parameters(), **settings) for name, network in both.items()}


def batches(rank: int = 0, num_ranks: int = 1) -> list[Tensor]:
    share = slice(BATCH * rank // num_ranks, BATCH * (rank + 1) // num_ranks)
    draws = (torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(STEPS + 2))
    return [(2 * draw - 1)[share] for draw in draws]


def steps(both: dict[str, nn.Module], data: list[Tensor], update: Update) -> None:
    """The three phases of an adversarial step for each batch."""
    generator, discriminator = both.values()
    for number, real in enumerate(data):
        discriminator.requires_grad_(False)
        fake = generator(real)
        update("generator", partial(generator_loss, discriminator, real, fake))
        discriminator.requires_grad_(True)
        update("discriminator", partial(discriminator_loss, discriminator, real, fake.detach()))
        if number % 2 == 0:
            update("discriminator", partial(penalty, discriminator, real))


def generator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return (fake - real).abs().mean() + F.softplus(-discriminator(fake)).mean()


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()


def penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    return 100 * gradient_penalty(discriminator, real)


def bare_update(both: dict[str, nn.Module]) -> Update:
    made = optimizers(both)

    def update(name: str, loss: Callable[[], Tensor]) -> None:
        made[name].zero_grad(set_to_none=False)  # what a penalty leaves untouched has a gradient of zero
        loss().backward()
        nn.utils.clip_grad_norm_(both[name].parameters(), CLIP)
        made[name].step()

    return update


def engine_update(engines: dict[str, Engine]) -> Update:
    def update(name: str, loss: Callable[[], Tensor]) -> None:
        with engines[name].whole():
            engines[name].backward(loss())
        assert engines[name].step() < float("inf")

    return update


def make_engines(
    kind: str, both: dict[str, nn.Module], rank: int, scale: bool = False, device: torch.device = CPU
) -> dict[str, Engine]:
    made = optimizers(both)
    deepspeed.MESSAGE = 1 if "shares" in kind else 2**20
    common: dict[str, Any] = {"clip_norm": CLIP, "scale": LossScale(scale)}
    if kind == "plain":
        return {name: PlainEngine(both[name], made[name], **common) for name in both}
    common |= {"zero_stage": int(kind[4]), "offload": kind.endswith("offload")}
    common |= {"device": device, "local_rank": rank}
    return {name: DeepSpeedEngine(both[name], made[name], **common) for name in both}


def snapshot(engines: dict[str, Engine]) -> dict[str, dict[str, Tensor]]:
    """Weights and optimizer states of both networks, whole."""
    found = {}
    for name, engine in engines.items():
        with engine.whole():
            weights = {key: value.clone() for key, value in engine.module.state_dict().items()}
        found[name] = weights | engine.state(keep=True)
    return found


def work(rank: int, kind: str, folder: Path) -> None:
    """One of two ranks: ten steps, then two more of another engine that took over; a step with a NaN; a scaled one."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text()}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    data, found = batches(rank, RANKS), {}
    for scaled in (False, True):
        both = networks()
        engines = make_engines(kind, both, rank, scale=scaled)
        steps(both, data[:STEPS], engine_update(engines))
        found["scaled" if scaled else "after"] = snapshot(engines)
    saved = found["after"]

    fresh = networks()  # weights go in before an engine is made, the optimizer's states after it
    for name, network in fresh.items():
        network.load_state_dict({key: saved[name][key] for key in network.state_dict()})
    engines = make_engines(kind, fresh, rank)
    for name, engine in engines.items():
        engine.load_state(saved[name])
    steps(fresh, data[STEPS:], engine_update(engines))
    found["resumed"] = snapshot(engines)

    engine = engines["generator"]
    engine.backward(fresh["generator"](data[0]).mean() * (float("nan") if rank == 1 else 1.0))
    found["norm"] = engine.step()
    found["skipped"] = snapshot({"generator": engine})
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def expected() -> list[dict[str, dict[str, Tensor]]]:
    """Both networks of plain PyTorch after ten and after twelve steps."""
    both = networks()
    update = bare_update(both)
    snapshots = []
    for part in (batches()[:STEPS], batches()[STEPS:]):
        steps(both, part, update)
        snapshots.append({name: {k: v.clone() for k, v in n.state_dict().items()} for name, n in both.items()})
    return snapshots


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_what_one_does(kind: str, expected: list, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "port").write_text(str(server.getsockname()[1]))
    torch.multiprocessing.spawn(work, (kind, tmp_path), nprocs=RANKS)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    for found in ranks:
        for moment, wanted in (("after", expected[0]), ("scaled", expected[0]), ("resumed", expected[1])):
            for name, weights in wanted.items():
                for key, value in weights.items():
                    got = found[moment][name][key]
                    torch.testing.assert_close(got, value, atol=1e-6, rtol=0, msg=f"{moment} {key}")
        assert not found["norm"] < float("inf"), "one rank's NaN is seen by all"
        for key, value in found["skipped"]["generator"].items():
            assert torch.equal(value, found["resumed"]["generator"][key]), f"{key} was changed by a step left out"


def test_what_an_engine_sends_at_once_is_as_large_as_its_network() -> None:
    """DeepSpeed's own 5e8 values are 2 GB of each engine's GPU."""
    for size, bucket in ((1000, 1000), (10**9, 50_000_000)):
        assert configuration(2, False, 1.0, size, RANKS)["zero_optimization"]["reduce_bucket_size"] == bucket


def test_a_rank_that_reads_a_norm_waits_for_the_others() -> None:
    """With NCCL it is there that it is held up, not in the call that sends."""
    network, seen = nn.Linear(3, 2), []
    optimizer = torch.optim.AdamW(network.parameters())
    optimizer.register_step_pre_hook(lambda *_: seen.append(in_collective()))
    engine = PlainEngine(network, optimizer, clip_norm=CLIP, scale=LossScale(False))
    engine.backward(network(torch.ones(1, 3)).sum())
    assert not in_collective()
    engine.step()
    assert seen == [True]


def test_all_that_an_optimizer_remembers_comes_back_to_where_its_parameter_lies() -> None:
    with torch.device("meta"):  # any device but the CPU, where checkpoints are read
        network = nn.Linear(3, 2)
    engine = PlainEngine(network, torch.optim.AdamW(network.parameters()), clip_norm=CLIP, scale=LossScale(False))
    kept = {
        f"{key}.{name}": torch.zeros_like(p, device=CPU) for name, p in network.named_parameters() for key in STATE[:2]
    }
    engine.load_state(kept | {f"step.{name}": torch.tensor(7.0) for name, _ in network.named_parameters()})
    remembered = [value for p in network.parameters() for value in engine.optimizer.state[p].values()]
    assert len(remembered) == 6
    assert all(value.device.type == "meta" for value in remembered)
