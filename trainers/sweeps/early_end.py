"""When a trial ends early: asynchronous successive halving (ASHA, arXiv:1810.05934)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyEnd:
    """At each rung only the best share 1 / `eta` of the trials that got there go on."""

    first: int  # steps of the first rung; each further one is `eta` times as far
    eta: int


def pruner(early_end: EarlyEnd | None):
    """Optuna's pruner; a trial that is the first at its rung goes on."""
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    if early_end is None:
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=early_end.first, reduction_factor=early_end.eta)
