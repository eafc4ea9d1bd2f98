"""What the benchmarks count that only count: exchanges of ranks, memory of a step."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from emohead.trainers.engines.averaging import Averaging
from emohead.trainers.engines.batch_norm import use_global_statistics
from emohead.trainers.engines.ranks import all_rows
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from .conftest import ROOT

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
        nn.Sequential(*layers)(torch.rand(2, 1000)).sum().backward()
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
