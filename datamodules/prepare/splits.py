"""Who goes to which split, so that nobody is in two, in an order that depends on the names alone."""

import hashlib
from collections.abc import Collection


def split_identities(identities: Collection[str], *, val_percent: int = 10, test_percent: int = 10) -> dict[str, str]:
    """Identity -> split: the given shares (rounded down, at least one person each) to val and test, the rest to train.

    The order is that of the names' SHA-256: train first, then val, then test. Two people make train and val, one
    makes train only.
    """
    order = sorted(set(identities), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    tests = max(1, len(order) * test_percent // 100) if len(order) >= 3 else 0
    vals = max(1, len(order) * val_percent // 100) if len(order) >= 2 else 0
    trains = len(order) - tests - vals
    return dict(zip(order, ["train"] * trains + ["val"] * vals + ["test"] * tests, strict=True))
