"""The way from a loss to new weights, for one network and its optimizer.

A stage calls `engine.backward(loss)` for each part of its batch and then `engine.step()`. Its forward passes go through
its own modules, so that several networks can be trained on one batch. Two kinds: `PlainEngine` here, and
`DeepSpeedEngine` in deepspeed.py. Both average gradients over the ranks, clip them by their global norm (to none if
`clip_norm` is infinite), and leave the weights alone if that norm is not finite; so their updates are the same.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .averaging import Averaging
from .late import Late
from .shares import Share, Source

STATE = ("exp_avg", "exp_avg_sq", "step")  # what Adam and AdamW remember of a parameter


class LossScale:
    """Dynamic loss scaling for float16: halved when a gradient overflows, doubled after many steps without overflow.

    Policy and figures are those of torch.amp.GradScaler (Micikevicius et al. 2018, "Mixed Precision Training").
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.scale = 2.0**16 if enabled else 1.0
        self.good_steps = 0

    def update(self, norm: Late) -> None:
        if not self.enabled:
            return
        finite = norm.read() < math.inf
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good_steps % 2000 == 0:
            self.scale *= 2


class Engine:
    """One network and its optimizer, which holds parameters of this network only."""

    def __init__(self, module: nn.Module, optimizer: Optimizer, *, clip_norm: float, scale: LossScale) -> None:
        self.module = module
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.scale = scale
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        held = module.state_dict(keep_vars=True).items()
        # Names of the weights that never change, in order.
        self.frozen_names = {n: None for n, t in held if isinstance(t, nn.Parameter) and t not in trained}

    def set_lr_scale(self, scale: float) -> None:
        """Set the learning rates to a share of those that the optimizer was made with."""
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * scale

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Add the gradients of a part of the batch; `last` if a step follows."""
        raise NotImplementedError

    def step(self) -> Late:
        """Update the weights; returns the norm of the averaged gradients. If it is not finite, nothing was updated."""
        raise NotImplementedError

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within this context the weights are whole on this rank; those of ZeRO-3 are not otherwise.

        For all ranks together. A second derivative needs it around both of its passes, and the step after it.
        """
        yield

    def shares(self) -> dict[str, Share]:
        """What this rank holds of all that changes, as it is now and not as a copy.

        `weights.NAME`, and of the optimizer `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`, once a step has been done.
        """
        held = self.module.state_dict(keep_vars=True)
        weights = {f"weights.{name}": self._held(held[name]) for name in held if name not in self.frozen_names}
        return weights | self._remembered()

    def _held(self, tensor: Tensor) -> Share:
        return Share(tensor, tensor.shape)

    def _remembered(self) -> dict[str, Share]:
        states: dict[str, Any] = {name: self.optimizer.state.get(p) for name, p in self.module.named_parameters()}
        found = {
            f"{key}.{name}": torch.as_tensor(state[key]) for name, state in states.items() if state for key in STATE
        }
        return {name: Share(value, value.shape) for name, value in found.items()}

    def frozen(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that never change, `weights.NAME`, whole and one after the other. For all ranks together."""
        held = self.module.state_dict()
        for name in self.frozen_names:
            yield f"weights.{name}", held[name]

    def load(self, source: Source) -> None:
        """Take what engines of any kind, on any number of ranks, had in their `shares`.

        Weights that are whole on each rank are left alone: they were in the network before it got an engine.
        """
        for name, parameter in self.module.named_parameters():
            if f"step.{name}" in source:
                numel = parameter.numel()
                moments = {k: source.part(f"{k}.{name}", 0, numel).view(parameter.shape) for k in STATE[:2]}
                # The moments lie in memory as the parameter does: sums over them are then done in the same order.
                moments = {key: torch.empty_like(parameter).copy_(value) for key, value in moments.items()}
                step = source.part(f"step.{name}", 0, 1).view(())
                self.optimizer.state[parameter] = moments | {
                    "step": step.to(parameter.device, copy=True)  # fused Adam reads it there
                }


class PlainEngine(Engine):
    """PyTorch's own optimizer, fused. Nothing in it makes the CPU wait for a GPU, but in float16 the loss scale."""

    def __init__(self, module: nn.Module, optimizer: Optimizer, *, clip_norm: float, scale: LossScale) -> None:
        super().__init__(module, optimizer, clip_norm=clip_norm, scale=scale)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        trained = set(self.parameters)
        self.averaging = Averaging([p for p in module.parameters() if p in trained])
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        if last:
            self.averaging.begin()
        (loss * self.scale.scale if self.scale.enabled else loss).backward()

    def step(self) -> Late:
        for parameter in self.parameters:  # no gradient here is a gradient of 0: other ranks may have one
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.averaging.finish()
        if self.scale.enabled:
            torch._foreach_div_([p.grad for p in self.parameters], self.scale.scale)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.found_inf = 1 - (norm < math.inf).float()  # type: ignore[attr-defined]  # 1: no update, NaN too
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        late = Late(norm)
        self.scale.update(late)
        return late
