"""Exchanges between two real processes: rows with their gradients, statistics of a shared batch, means of gradients."""

import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from emohead.trainers.engines import averaging, ranks
from emohead.trainers.engines.batch_norm import use_global_statistics
from torch import Tensor, nn

RANKS, ROWS, CHANNELS = 2, 3, 5


def embeddings() -> tuple[Tensor, Tensor, Tensor]:
    """Two kinds of rows with gradients, one of labels."""
    draws = torch.Generator().manual_seed(0)
    first, second = (torch.rand(RANKS * ROWS, width, generator=draws) for width in (4, 7))
    return first.requires_grad_(), second.requires_grad_(), torch.arange(RANKS * ROWS)


def loss_of(first: Tensor, second: Tensor, labels: Tensor, rows: slice) -> Tensor:
    """In which each row is compared with all."""
    return (first[rows] @ first.T).exp().sum() + ((second[rows] @ second.T).square() @ labels.float()).sum()


def pictures() -> Tensor:
    """Far from 0 and close to each other, where a variance from squares has no digits left in float32."""
    return 1000 + torch.randn(RANKS * ROWS, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))


def normed(network: nn.Module, x: Tensor, rows: slice = slice(None)) -> dict[str, Tensor]:
    x = x[rows].requires_grad_()
    out = network(x)
    (out.square() * torch.arange(CHANNELS)[:, None, None]).sum().backward()
    return {"out": out.detach(), "gradient": x.grad, "mean": network.running_mean, "var": network.running_var}


def layers() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(3, 3) for _ in range(4)])


def passed_through(network: nn.ModuleList, rank: int, part: int) -> Tensor:
    """A loss of one rank, which leaves out one layer: another one in each rank and part of the batch."""
    x = torch.full((1, 3), rank + 1.0)
    for number, layer in enumerate(network):
        x = x if number == (rank + part) % 4 else torch.tanh(layer(x))
    return x.sum()


def averaged(rank: int) -> list[Tensor]:
    """Gradients of two parts of a batch, twice, averaged in pieces of one or two parameters."""
    averaging.BUCKET = 12
    network, found = layers(), []
    means = averaging.Averaging(list(network.parameters()))
    means.overlaps = True  # as on GPUs
    for _ in range(2):
        passed_through(network, rank, 0).backward()
        means.begin()
        passed_through(network, rank, 1).backward()
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        means.finish()
        found += [parameter.grad.clone() for parameter in network.parameters()]
        network.zero_grad()
    return found


def work(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text()}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    rows = ranks.own_rows(ROWS)
    own = [x[rows].detach().requires_grad_(x.is_floating_point()) for x in embeddings()]
    first, second, labels = ranks.all_rows(*own)
    loss_of(first, second, labels, rows).backward()
    network = nn.BatchNorm2d(CHANNELS)
    use_global_statistics(network, network.weight.device)
    found = {"gradients": [x.grad for x in own], "norm": normed(network, pictures(), rows), "means": averaged(rank)}
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_shares_of_two_ranks_are_as_the_whole_batch_in_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "port").write_text(str(server.getsockname()[1]))
    torch.multiprocessing.spawn(work, (tmp_path,), nprocs=RANKS)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]

    whole = embeddings()
    loss_of(*whole, slice(None)).backward()
    for place, wanted in enumerate(whole[:2]):
        torch.testing.assert_close(torch.cat([one["gradients"][place] for one in found]), wanted.grad)
    expected = normed(nn.BatchNorm2d(CHANNELS).double(), pictures().double())
    for key in ("out", "gradient"):
        got = torch.cat([one["norm"][key] for one in found]).double()
        torch.testing.assert_close(got, expected[key], atol=1e-3, rtol=1e-4)
    for key in ("mean", "var"):
        torch.testing.assert_close(found[0]["norm"][key].double(), expected[key], atol=0, rtol=1e-6)
        assert torch.equal(found[0]["norm"][key], found[1]["norm"][key])

    network = layers()
    torch.stack(
        [passed_through(network, rank, part) / RANKS for rank in range(RANKS) for part in range(2)]
    ).sum().backward()
    for one in found:
        for place, got in enumerate(one["means"]):
            wanted = list(network.parameters())[place % 8].grad
            torch.testing.assert_close(got, wanted, msg=f"parameter {place % 8}, pass {place // 8}")


def test_gpus_have_torch_s_own_layer_with_the_same_weights() -> None:
    network = nn.Sequential(nn.BatchNorm2d(CHANNELS))
    before = network.state_dict(keep_vars=True)
    use_global_statistics(network, torch.device("cuda"))
    (layer,) = network
    assert type(layer) is nn.SyncBatchNorm
    assert layer.process_group is None, "all ranks"
    assert all(value is before[name] for name, value in network.state_dict(keep_vars=True).items())
    assert repr(layer) == repr(nn.SyncBatchNorm(CHANNELS))
