"""Gradients averaged over the ranks: on GPUs while the backward pass is still finding others."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 25 * 2**20 // 4  # float32 values that travel together


class Averaging:
    """Replaces the gradients of parameters by their means over the ranks.

    They travel in buckets, in the order in which a backward pass finds them: from the last parameter to the first. A
    bucket is sent when all in it are there and those before it are sent, or else in `finish`. So all ranks send the
    same buckets in the same order, also one that finds no gradient for some parameter.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.shared = dist.is_initialized() and dist.get_world_size() > 1
        self.listening = False
        if not self.shared:
            return
        # In a group of their own: between which other exchanges of the pass they are sent may differ from rank to rank.
        self.group = dist.new_group()
        self.nccl = dist.get_backend() == "nccl"  # it divides as well
        # gloo's threads take the cores that the pass is at work on: two ranks on two cores become a sixth slower.
        self.overlaps = dist.get_backend() != "gloo"
        self.buckets = list(buckets(parameters[::-1]))
        self.bucket_of = {parameter: number for number, bucket in enumerate(self.buckets) for parameter in bucket}
        self.missing: list[int] = []  # gradients, by bucket
        self.sent: list[tuple[Tensor, Any]] = []
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def begin(self) -> None:
        """Send what is found from now on: after the backward pass that follows, the gradients are complete."""
        if self.shared:
            self.listening, self.sent = self.overlaps, []
            self.missing = [len(bucket) for bucket in self.buckets]

    def finish(self) -> None:
        """Send the rest, and wait for all. Each parameter has a gradient by now."""
        if not self.shared:
            return
        self.listening = False
        while len(self.sent) < len(self.buckets):
            self._send()
        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            if not self.nccl:
                flat /= dist.get_world_size()
            gradients = [memory(parameter.grad) for parameter in bucket]
            torch._foreach_copy_(gradients, flat.split([len(gradient) for gradient in gradients]))
        self.sent = []

    def _arrived(self, parameter: nn.Parameter) -> None:
        if not self.listening:
            return
        self.missing[self.bucket_of[parameter]] -= 1
        while len(self.sent) < len(self.buckets) and not self.missing[len(self.sent)]:
            self._send()

    def _send(self) -> None:
        flat = torch.cat([memory(parameter.grad) for parameter in self.buckets[len(self.sent)]])
        mean = dist.ReduceOp.AVG if self.nccl else dist.ReduceOp.SUM
        self.sent.append((flat, dist.all_reduce(flat, op=mean, group=self.group, async_op=True)))


def memory(tensor: Any) -> Tensor:
    """A flat view of a dense tensor in the order of its memory, whatever its memory format."""
    return tensor.as_strided((tensor.numel(),), (1,)) if not tensor.is_contiguous() else tensor.view(-1)


def buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in order, as many in a bucket as fit."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
