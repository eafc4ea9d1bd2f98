"""Engines in two real processes against plain PyTorch in one: two networks, an adversary, its second derivative."""

import math
import os
import socket
import subprocess
import sys
from collections import Counter
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
from emohead.trainers.engines.ranks import all_objects
from emohead.trainers.engines.shares import Share, to_save
from emohead.trainers.run.watchdog import in_collective
from torch import Tensor, nn

STEPS, RANKS, BATCH, CLIP = 10, 2, 4, 0.5
CLIPS = {"discriminator": math.inf}  # its penalty has norms far above; all others are cut down to CLIP
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
    trained = {name: [p for p in network.parameters() if p.requires_grad] for name, network in both.items()}
    return {name: torch.optim.AdamW(parameters, **settings) for name, parameters in trained.items()}


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
        if name not in CLIPS:
            nn.utils.clip_grad_norm_(both[name].parameters(), CLIP)
        made[name].step()

    return update


def engine_update(engines: dict[str, Engine]) -> Update:
    def update(name: str, loss: Callable[[], Tensor]) -> None:
        with engines[name].whole():
            engines[name].backward(loss())
        assert engines[name].step().read() < float("inf")

    return update


def make_engines(
    kind: str, both: dict[str, nn.Module], rank: int, scale: bool = False, device: torch.device = CPU
) -> dict[str, Engine]:
    made = optimizers(both)
    deepspeed.MESSAGE = 1 if "shares" in kind else 2**20
    make: Callable[..., Engine] = PlainEngine
    if kind != "plain":
        zero = {"zero_stage": int(kind[4]), "offload": kind.endswith("offload")}
        make = partial(DeepSpeedEngine, device=device, local_rank=rank, **zero)
    clips = {name: CLIPS.get(name, CLIP) for name in both}
    return {n: make(both[n], made[n], clip_norm=clips[n], scale=LossScale(scale)) for n in both}


class Held(dict):
    """Whole tensors as a `Source`."""

    def part(self, name: str, start: int, numel: int) -> Tensor:
        return self[name].flatten()[start : start + numel]


def snapshot(engines: dict[str, Engine]) -> dict[str, Held]:
    """Weights and optimizer states of both networks, put together from what the ranks would save."""
    found = {}
    for name, engine in engines.items():
        own = {key: share._replace(values=share.values.clone()) for key, share in saved_by(engine).items()}
        whole, counts = Held(), Counter()
        for key, share in [item for part in all_objects(own) for item in part.items()]:
            given, held = share.values.flatten(), whole.setdefault(key, torch.full(share.shape, torch.nan))
            held.view(-1)[share.start :][: len(given)] = given
            counts[key] += len(given)
        assert counts == {key: value.numel() for key, value in whole.items()}, "each value is saved once"
        found[name] = whole
    return found


def saved_by(engine: Engine) -> dict[str, Share]:
    return to_save(engine.shares(), dist.get_rank(), RANKS)


def weights_of(saved: Held) -> dict[str, Tensor]:
    return {key.removeprefix("weights."): value for key, value in saved.items() if key.startswith("weights.")}


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

    fresh = networks()  # whole weights go in before an engine is made, sharded ones and the optimizer's states after it
    for name, network in fresh.items():
        given = weights_of(saved[name])
        network.load_state_dict({k: torch.zeros_like(v) for k, v in given.items()} if "zero3" in kind else given)
    engines = make_engines(kind, fresh, rank)
    for name, engine in engines.items():
        engine.load(saved[name])
    steps(fresh, data[STEPS:], engine_update(engines))
    found["resumed"] = snapshot(engines)

    found["norms"] = []
    for name, engine in engines.items():
        engine.backward(fresh[name](data[0]).mean() * (float("nan") if rank == 1 else 1.0))
        found["norms"].append(engine.step().read())
    found["skipped"] = snapshot(engines)
    found["frozen"] = {"layer": {key: value.clone() for key, value in partly_frozen(kind, rank).frozen()}}
    plain = {k: {n: dict(held) for n, held in v.items()} if isinstance(v, dict) else v for k, v in found.items()}
    torch.save(plain, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def partly_frozen(kind: str, rank: int) -> Engine:
    """A network whose first layer is not trained, and too large for ZeRO-3 to leave whole."""
    network = nn.Sequential(nn.Linear(400, 300), nn.Linear(300, 3))
    network[0].requires_grad_(False)
    given = Held({f"weights.{name}": torch.ones_like(value) for name, value in network.state_dict().items()})
    if "zero3" not in kind:
        network.load_state_dict(weights_of(given))
    engine = make_engines(kind, {"only": network}, rank)["only"]
    assert engine.shares().keys() == {"weights.1.weight", "weights.1.bias"}
    engine.load(given)
    return engine


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
                    got = found[moment][name][f"weights.{key}"]
                    torch.testing.assert_close(got, value, atol=1e-6, rtol=0, msg=f"{moment} {key}")
        assert not any(norm < float("inf") for norm in found["norms"]), "one rank's NaN is seen by all"
        for name, saved in found["skipped"].items():
            for key, value in saved.items():
                assert torch.equal(value, found["resumed"][name][key]), f"{key} was changed by a step left out"
        layer = found["frozen"]["layer"]
        assert {key: value.shape for key, value in layer.items()} == {
            "weights.0.weight": (300, 400),
            "weights.0.bias": (300,),
        }
        assert all((value == 1).all() for value in layer.values())


def test_zero_3_brings_no_whole_network_to_a_device(demo: Path, tmp_path: Path) -> None:
    """By the time that a stage is moved there, each rank has its part of every trained parameter, and no more."""
    code = f"""
from pathlib import Path
from emohead.trainers.run.strategy import EngineStrategy
from emohead.trainers.run.train import train
move, held = EngineStrategy.model_to_device, []
def watched(self):
    networks = self.lightning_module.trained().values()
    held.append(sum(parameter.numel() for network in networks for parameter in network.parameters()))
    move(self)
EngineStrategy.model_to_device = watched
settings = ["trainer.strategy=deepspeed", "trainer.zero_stage=3", "trainer.max_steps=1", "trainer.accelerator=cpu"]
train("motion", [Path({str(demo / "motion" / "config.yaml")!r})], [*settings, {f"run={tmp_path}/run"!r}])
assert held == [0], held
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_what_an_engine_sends_at_once_is_as_large_as_its_network() -> None:
    """DeepSpeed's own 5e8 values are 2 GB of each engine's GPU."""
    for size, bucket in ((1000, 1000), (10**9, 50_000_000)):
        assert configuration(2, False, 1.0, size, RANKS)["zero_optimization"]["reduce_bucket_size"] == bucket


def test_a_rank_that_reads_a_norm_waits_for_the_others() -> None:
    """With NCCL it is there that it is held up, not in the call that sends."""
    network, seen = nn.Linear(3, 2), []
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    optimizer.register_step_pre_hook(lambda *_: seen.append(in_collective()))
    engine = PlainEngine(network, optimizer, clip_norm=CLIP, scale=LossScale(False))
    engine.backward(network(torch.ones(1, 3)).sum())
    assert not in_collective()
    engine.step()
    assert seen == [True]


def test_all_that_an_optimizer_remembers_comes_back_to_where_its_parameter_lies() -> None:
    with torch.device("meta"):  # any device but the CPU, where checkpoints are read
        network = nn.Linear(3, 2)
    engine = PlainEngine(
        network, torch.optim.AdamW(network.parameters(), fused=True), clip_norm=CLIP, scale=LossScale(False)
    )
    kept = {
        f"{key}.{name}": torch.zeros_like(p, device=CPU) for name, p in network.named_parameters() for key in STATE[:2]
    }
    engine.load(Held(kept | {f"step.{name}": torch.tensor(7.0) for name, _ in network.named_parameters()}))
    remembered = [value for p in network.parameters() for value in engine.optimizer.state[p].values()]
    assert len(remembered) == 6
    assert all(value.device.type == "meta" for value in remembered)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_what_all_ranks_hold_is_saved_once_in_equal_pieces(num_ranks: int) -> None:
    draws = torch.Generator().manual_seed(0)
    tensors = {str(size): torch.randn(size, 3, generator=draws) for size in (5, 0, 11, 1)} | {"scalar": torch.tensor(2)}
    tensors["across"] = torch.randn(4, 6, generator=draws).T  # its values count by rows, not as they lie in memory
    shares = {name: Share(tensor, tensor.shape) for name, tensor in tensors.items()}
    shares |= {"own": Share(torch.ones(4), torch.Size([9]), 5, everywhere=False)}
    found: dict[str, list[Tensor]] = {}
    sizes = []
    for rank in range(num_ranks):
        saved = to_save(shares, rank, num_ranks)
        assert saved.pop("own").start == 5
        sizes.append(sum(share.values.numel() for share in saved.values()))
        for name, share in saved.items():
            assert share.start == sum(map(len, found.get(name, [])))
            found.setdefault(name, []).append(share.values.flatten())
    assert max(sizes) - min(sizes) <= 1
    assert found.keys() == tensors.keys()
    assert all(torch.equal(torch.cat(found[name]), tensor.flatten()) for name, tensor in tensors.items())
