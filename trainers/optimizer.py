"""AdamW as every stage uses it: its settings, what is decayed, and the course of the learning rate."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW

from ..models.ranges import number


@dataclass
class OptimizerConfig:
    lr: float = number(3e-4, above=0)  # learning rate at its height, after the warm-up
    weight_decay: float = 0.01  # of weights; norms, biases and temperatures are not decayed
    beta1: float = number(0.9, most=0.9999)  # decay of the mean of gradients
    beta2: float = number(0.98, most=0.99999)  # decay of the mean of squared gradients
    warmup_steps: int = 50  # steps in which the learning rate rises from 0
    final_lr: float = number(0.05, most=1)  # share of lr left at the last step (cosine)
    clip_norm: float = number(1.0, above=0)  # norm that a gradient is cut down to; not the discriminator's


def learning_rate_scale(step: int, *, warmup_steps: int, max_steps: int, final: float) -> float:
    """Linear warm-up, then a half cosine from 1 down to `final`. A pure function of the step: nothing to restore."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def adamw(module: nn.Module, config: OptimizerConfig) -> AdamW:
    groups = decay_groups(module, config.weight_decay)
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of AdamW: norms, biases and temperatures are not decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    decayed, plain = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
