"""What a training step exchanges on many ranks, counted in one process, without any of the others.

    python benchmarks/scaling.py             prints the table
    python benchmarks/scaling.py --results   and puts it into docs/results.md

One rank goes through a step in a process group of torch's backend `fake`, which has as many ranks as one likes and
exchanges nothing. Debug sizes have real tensors and all engines, two samples a rank. Base sizes, and emotion on larger
towers, have the device `meta` and plain engines, with the batches of benchmarks/gpu.py a rank: counted for 8 ranks,
from which other numbers follow. DeepSpeed does not work there. What it sends at these sizes is derived, by what it sent
for a weight of the debug stage, and marked so.

The least is what a ring sends for gradients and weights: twice the trained weights, three times at ZeRO-3, where the
frozen weights of the stage have to be fetched once as well.
"""

import argparse
import contextlib
import functools
import math
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from collectives import Traffic
from emohead.models.clip import import_open_clip
from emohead.trainers.engines.batch_norm import use_global_statistics
from emohead.trainers.engines.deepspeed import configuration, import_deepspeed
from emohead.trainers.run.train import quieten
from engines import attach_engines
from gpu_rows import BATCHES, STAGES
from overhead import make_batch, make_stage
from roofline import META, give_engines, meta_batch, without_autocast
from tables import put_into_results
from torch.distributed._tools import fake_collectives  # noqa: F401 (teaches them `meta`)
from torch.testing._internal.distributed.fake_pg import FakeStore

RANKS = (8, 64, 256, 1024)
KINDS = ("plain", "ZeRO-0", "ZeRO-1", "ZeRO-2", "ZeRO-3")
TOWERS = ("ViT-B-32", "ViT-H-14", "ViT-bigG-14")
LEARNS = {"adapters": "network.trainable=adapters", "all": "network.trainable=all"}


class Size(NamedTuple):
    engines: tuple[int, ...]  # weights that each of a stage's engines trains
    frozen: int  # those that engines hold without training them

    @property
    def trained(self) -> int:
        return sum(self.engines)

    def least(self, kind: str, num_ranks: int) -> float:
        """Bytes that a rank has to send in a step, for gradients and weights in float32."""
        whole = 3 * self.trained + self.frozen if kind == "ZeRO-3" else 2 * self.trained
        return 4 * whole * (num_ranks - 1) / num_ranks


class Found(NamedTuple):
    size: Size
    calls: dict[str, int]
    sent: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.sent.values())


@contextlib.contextmanager
def ranks(count: int) -> Iterator[None]:
    """As rank 0 of so many."""
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def size_of(stage: Any) -> Size:
    weights = [list(module.parameters()) for module in stage.trained().values()]
    engines = tuple(sum(p.numel() for p in own if p.requires_grad) for own in weights)
    return Size(engines, sum(p.numel() for own in weights for p in own) - sum(engines))


def counted(stage: Any, batch: Any) -> Traffic:
    with Traffic() as traffic:
        stage.training_step(batch, 0)
    assert all(norm.read() < math.inf for norm in stage.norms.values()), "a step that is skipped sends less"
    return traffic


def count_debug(name: str, kind: str, folder: Path) -> Found:
    """A step of a debug stage on real tensors, within `ranks`."""
    stage: Any = make_stage(name, folder).train()
    stage.on_fit_start()
    use_global_statistics(stage, stage.device)
    stage.num_batches = 1  # no gradient penalty, which comes in one step of sixteen
    size = size_of(stage)
    attach_engines(stage, None if kind == "plain" else int(kind[-1]))
    batch = make_batch(name, 2)
    # ZeRO-3 learns in its first step in which order to fetch weights. At ZeRO 1 and 2 the first step is counted: it
    # ends with weights that are copies of one rank's share, for the group exchanges nothing, and a second would fail.
    if kind == "ZeRO-3":
        stage.training_step(batch, 0)
        stage.num_batches = 1
    traffic = counted(stage, batch)
    return Found(size, traffic.calls, traffic.sent)


@contextlib.contextmanager
def towers_on_meta() -> Iterator[None]:
    """2.5 billion weights of which nobody reads one."""
    open_clip = import_open_clip()
    real = open_clip.create_model

    def create(*arguments: Any, **options: Any) -> Any:
        with META:
            return real(*arguments, **options, device="meta")

    open_clip.create_model = create
    try:
        yield
    finally:
        open_clip.create_model = real


def on_meta(name: str, folder: Path, *overrides: str) -> Any:
    """A stage of base size, without engines."""
    if name != "emotion":
        stage: Any = make_stage(name, folder, *overrides, size="base", pixels=256)
    else:
        with towers_on_meta():
            stage = make_stage(name, folder, "loss.prior_loss=0", *overrides, size="base", pixels=256)
        stage.to(META)
        stage.config.loss.prior_loss, stage.original = 10.0, stage.original_text()  # as the file of this size has it
    use_global_statistics(stage, stage.device)
    return stage


def count_meta(name: str, folder: Path, *overrides: str) -> dict[int, Found]:
    """A step of a stage of base size by number of ranks, with plain engines.

    It is done for 8 ranks. What is gathered and scattered grows with the other ranks, what is reduced does not grow.
    """
    stage = on_meta(name, folder, *overrides)
    with ranks(8):
        give_engines(stage)
        traffic = counted(stage, meta_batch(name, "base", BATCHES[name]))
    found = {}
    for count in RANKS:
        grown = {kind: (count - 1) / 7 * (8 / count if kind == "all-reduce" else 1) for kind in traffic.sent}
        sent = {kind: round(size * grown[kind]) for kind, size in traffic.sent.items()}
        found[count] = Found(size_of(stage), traffic.calls, sent)
    return found


Debug = dict[str, dict[int, dict[str, Found]]]  # by stage, ranks and engine


def derived(plain: dict[int, Found], debug: Debug, name: str, kind: str) -> dict[int, float]:
    """The bytes of a DeepSpeed engine: what plain sends beside gradients, and its own for each trained weight."""
    sent = {}
    for count, found in plain.items():
        beside = found.bytes - found.size.least("plain", count)
        if kind == "ZeRO-3":
            sent[count] = beside + of_least(debug[name][count], kind, count) * found.size.least(kind, count)
        else:
            sent[count] = beside + sum(
                of_mode(debug, kind, deals_out(engine, count)) * Size((engine,), 0).least(kind, count)
                for engine in found.size.engines
            )
    return sent


def of_least(small: dict[str, Found], kind: str, count: int) -> float:
    """What an engine sends for gradients and weights of a debug stage, over the least."""
    beside = small["plain"].bytes - small["plain"].size.least("plain", count)
    return (small[kind].bytes - beside) / small[kind].size.least(kind, count)


def deals_out(weights: int, num_ranks: int) -> bool:
    """Whether an engine of ZeRO 1 or 2 sends each rank its share of the gradients alone."""
    return not configuration(2, False, 1.0, weights, num_ranks)["zero_optimization"]["use_multi_rank_bucket_allreduce"]


def of_mode(debug: Debug, kind: str, deals: bool) -> float:
    """`of_least` of a debug stage whose one engine does, or does not, deal out the gradients."""
    return next(
        of_least(found, kind, count)
        for stage in debug.values()
        for count, found in stage.items()
        if len(found[kind].size.engines) == 1 and deals_out(found[kind].size.trained, count) == deals
    )


def line(stage: str, size: Size, kind: str, how: str, calls: str, sent: dict[int, float]) -> str:
    ratios = " | ".join(f"{sent[count] / size.least(kind, count):.2f}" for count in RANKS)
    weights = f"{size.trained / 1e6:,.1f} M" + (f" + {size.frozen / 1e6:,.0f} M" if size.frozen else "")
    row = (
        f"| {stage} | {weights} | {kind}, {how} | {calls} | {sent[8] / 1e6:,.1f} | {sent[1024] / 1e6:,.1f} | {ratios} |"
    )
    print(row, flush=True)
    return row


def in_words(calls: dict[str, int]) -> str:
    return ", ".join(f"{times} {kind}" for kind, times in sorted(calls.items()))


def count_kinds(name: str, folder: Path, num_ranks: int) -> dict[str, Found]:
    with ranks(num_ranks):
        return {kind: count_debug(name, kind, folder) for kind in KINDS}


def each_alone(call: Callable[[int], Any], items: tuple[int, ...]) -> list[Any]:
    """What a call gives for each item, in a process of its own: DeepSpeed remembers the first group that it sees."""
    import_deepspeed(torch.device("cpu"))
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(call, items, chunksize=1)


def debug_rows(folder: Path) -> tuple[list[str], Debug]:
    lines: list[str] = []
    found: Debug = {}
    for name in STAGES:
        found[name] = dict(zip(RANKS, each_alone(functools.partial(count_kinds, name, folder), RANKS), strict=True))
        for kind in KINDS:
            by_ranks = {count: found[name][count][kind] for count in RANKS}
            sent = {count: float(one.bytes) for count, one in by_ranks.items()}
            calls = in_words(by_ranks[8].calls)
            if sum(by_ranks[1024].calls.values()) != sum(by_ranks[8].calls.values()):
                calls += f" (1024 ranks: {in_words(by_ranks[1024].calls)})"
            lines.append(line(f"`{name}` debug", by_ranks[8].size, kind, "measured", calls, sent))
    return lines, found


def base_rows(folder: Path, debug: Debug) -> list[str]:
    lines = []
    cases = [(name, f"`{name}` base", ()) for name in STAGES if name != "emotion"]
    for tower in TOWERS:
        for learns, key in LEARNS.items():
            cases.append(("emotion", f"`emotion`, {tower}, {learns}", (f"network.clip={tower}", key)))
    for name, title, overrides in cases:
        found = count_meta(name, folder, *overrides)
        size, calls = found[8].size, in_words(found[8].calls)
        sent = {count: float(one.bytes) for count, one in found.items()}
        lines.append(line(title, size, "plain", "counted for 8 ranks", calls, sent))
        for kind in ("ZeRO-2", "ZeRO-3"):
            lines.append(line(title, size, kind, "derived", "", derived(found, debug, name, kind)))
    return lines


def rows() -> list[str]:
    head = (
        "| stage | weights, trained + frozen | engine | | operations a step, 8 ranks | MB sent, 8 ranks | 1024 ranks "
    )
    head += "".join(f"| of the least, {count} " for count in RANKS) + "|"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stage in ("emotion", "motion", "face"):
            make_stage(stage, folder).export(folder / f"{stage}.safetensors", {})
        lines, debug = debug_rows(folder)
        without_autocast()
        for stage in ("motion", "face"):  # the debug emotion space will do as a teacher
            exported = make_stage(stage, folder, size="base", pixels=256)
            exported.export(folder / f"{stage}.safetensors", {})
        lines += base_rows(folder, debug)
    return [head, "|---|---|---|---|---:|---:" + "|---:" * len(RANKS) + "|", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    quieten()
    warnings.filterwarnings("ignore", category=FutureWarning)  # DeepSpeed's calls of torch.distributed
    torch.set_num_threads(1)
    table = "\n".join(rows())
    if options.results:
        put_into_results("scaling", table)


if __name__ == "__main__":
    main()
