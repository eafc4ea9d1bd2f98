"""What the benchmarks count that only count: exchanges of ranks, memory of a step."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from emohead.datamodules.batch import made_up_batch
from emohead.trainers.engines.averaging import Averaging
from emohead.trainers.engines.batch_norm import use_global_statistics
from emohead.trainers.engines.plain import LossScale, PlainEngine
from emohead.trainers.engines.ranks import all_rows
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from .conftest import ROOT
from .stages import make

BENCHMARKS = ROOT / "benchmarks"
RANKS = 8


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A counter on rank 0 of eight, which exchange nothing."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    dist.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    yield importlib.import_module("collectives").Traffic()
    dist.destroy_process_group()


def test_operations_and_bytes_are_those_of_a_ring(traffic: Any) -> None:
    own, whole = torch.zeros(10), torch.zeros(10 * RANKS)
    with traffic:
        dist.all_reduce(whole)
        dist.all_gather_single(whole, own)
        dist.all_gather([torch.zeros(10) for _ in range(RANKS)], own)
        dist.reduce_scatter_single(own, whole)
        dist.reduce(own, 3)
        dist.barrier()
    expected = {"all-reduce": 1, "all-gather": 2, "reduce-scatter": 1, "reduce": 1, "barrier": 1}
    assert traffic.calls == expected
    sent = {"all-reduce": 2 * 7 * 40, "all-gather": 2 * 7 * 40, "reduce-scatter": 7 * 40, "reduce": 35, "barrier": 0}
    assert traffic.sent == sent


def test_rows_of_all_kinds_travel_at_once_and_so_do_their_gradients(traffic: Any) -> None:
    labels, rows = torch.arange(3), [torch.rand(3, width, requires_grad=True) for width in (4, 5)]
    with traffic:
        found = all_rows(labels, *rows)
        torch.stack([x.sum() for x in found[1:]]).sum().backward()
    assert traffic.calls == {"all-gather": 1, "reduce-scatter": 1}
    assert traffic.sent == {"all-gather": 7 * 3 * (8 + 4 * 9), "reduce-scatter": 7 * 3 * 4 * 9}


def test_a_layer_of_global_statistics_exchanges_once_each_way(traffic: Any) -> None:
    layer = nn.BatchNorm2d(5)
    use_global_statistics(layer, layer.weight.device)
    with traffic:
        layer(torch.rand(2, 5, 4, 4, requires_grad=True)).square().sum().backward()
    assert traffic.calls == {"all-reduce": 2}


def test_gradients_are_sent_in_few_pieces_while_others_are_found(traffic: Any) -> None:
    layers, before_last = [nn.Linear(1000, 1000, bias=False) for _ in range(8)], []
    layers[0].register_full_backward_pre_hook(lambda *_: before_last.append(traffic.calls["all-reduce"]))
    averaging = Averaging([layer.weight for layer in layers])
    averaging.begin()
    with traffic:
        nn.Sequential(*layers)(torch.rand(2, 1000, requires_grad=True)).sum().backward()
        averaging.finish()
    assert before_last == [1], "the pass is not at its end, and the first piece has gone"
    assert traffic.calls == {"all-reduce": 2}
    assert traffic.sent == {"all-reduce": 2 * 4 * 8_000_000 * 7 // 8}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_peak_counts_what_is_alive_at_once(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    with importlib.import_module("memory").Memory(device) as memory:
        kept = torch.zeros(1000, device=device)
        memory.begin()
        x = kept + 1  # with `kept`
        x = x.view(10, 100) * 2  # with `kept` and its input
        assert memory.peak == 12_000
        del x
        assert memory.now == 4_000
        (kept + 1).add_(1)
    assert memory.peak == 12_000


class Reads(TorchDispatchMode):
    """Counts the numbers that Python takes out of a tensor: on a GPU it waits for each."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_an_engine_s_step_waits_for_no_number() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    engine = PlainEngine(network, optimizer, clip_norm=1.0, scale=LossScale(False))
    norms = []
    with Reads() as reads:
        for _ in range(3):
            engine.backward(network(torch.ones(2, 3)).sum())
            norms.append(engine.step())
    assert reads.count == 0
    assert all(0 < norm.read() < 10 for norm in norms)


@pytest.mark.parametrize("name", ["emotion", "motion", "face", "distill"])
def test_a_training_step_waits_for_no_number(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the device `meta`, which has none: whoever asks it for one raises an error."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    roofline = importlib.import_module("roofline")
    monkeypatch.setattr(torch, "autocast", torch.autocast)  # so that it comes back
    roofline.without_autocast()
    stage: Any = make(name, tmp_path)
    roofline.give_engines(stage)
    batch = made_up_batch(name, batch_size=4, size=32)
    on_meta = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    stage.training_step(on_meta, 0)
    assert stage.logs["loss"].device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        float(stage.logs["loss"])
