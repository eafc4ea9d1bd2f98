"""Judges in closed form: which class a vector belongs to, and how well two tracks move together.

Both scale their input by what they were fitted on, so that units do not matter.
Shapes: n vectors, F features, C classes, T frames, X and Y values a frame of the two tracks, L = 31 lags, R ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MAX_LAG = 15  # frames to either side that two tracks are compared at, as in SyncNet
RANKS = 4  # pairs of directions that two tracks are compared in
LEAST_RIDGE = 0.01  # of the tracks' variance
STILL = 1e-6  # standard deviations: less is no movement


@dataclass
class Classifier:
    """Linear discriminant analysis with one covariance for all classes, each as likely as the others."""

    mean: Tensor  # (F,)
    scale: Tensor
    weights: Tensor  # (F, C)
    bias: Tensor  # (C,)

    @classmethod
    def fit(cls, vectors: Tensor, labels: Tensor, num_classes: int) -> "Classifier":
        """vectors (n, F), labels (n,) from 0 to C - 1, each at least once."""
        mean, scale = vectors.mean(dim=0), spread(vectors)
        vectors = (vectors - mean) / scale
        centres = torch.stack([vectors[labels == number].mean(dim=0) for number in range(num_classes)])  # (C, F)
        weights = torch.linalg.solve(shrunk_covariance(vectors - centres[labels]), centres.T)
        return cls(mean, scale, weights, -(centres.T * weights).sum(dim=0) / 2)

    def __call__(self, vectors: Tensor) -> Tensor:
        """(n, F) -> the likeliest class of each (n,)."""
        return ((vectors - self.mean) / self.scale @ self.weights + self.bias).argmax(dim=1)


def shrunk_covariance(vectors: Tensor) -> Tensor:
    """Covariance (F, F) of centred vectors (n, F), drawn towards a sphere as far as so few vectors make it uncertain.

    Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".
    """
    num, size = vectors.shape
    sample = vectors.T @ vectors / num
    sphere = sample.trace() / size * torch.eye(size, dtype=vectors.dtype)
    apart = (sample - sphere).square().sum()
    error = ((vectors.square().T @ vectors.square()) / num - sample.square()).sum() / num
    share = float((error / apart.clamp(min=1e-12)).clamp(max=1))
    return (1 - share) * sample + share * sphere + LEAST_RIDGE * torch.eye(size, dtype=vectors.dtype)


class Moments(NamedTuple):
    """What a fit needs to know of pairs of tracks: products summed over their frames; they can be added up."""

    frames: int
    xx: Tensor  # (X, X)
    yy: Tensor  # (Y, Y)
    xy: Tensor  # (X, Y)

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "Moments":
        """A pair (T, X), (T, Y), each with its mean over time taken out."""
        x, y = centred(x), centred(y)
        return cls(len(x), x.T @ x, y.T @ y, x.T @ y)


def added(moments: Sequence[Moments]) -> Moments:
    """Those of all the pairs together."""
    frames, xx, yy, xy = zip(*moments, strict=True)
    return Moments(sum(frames), *(torch.stack(parts).sum(dim=0) for parts in (xx, yy, xy)))


@dataclass
class Follower:
    """Canonical correlation analysis: directions in which two tracks move together, and how closely they do."""

    of_x: Tensor  # (X, R)
    of_y: Tensor  # (Y, R)
    closeness: Tensor  # (R,) canonical correlations

    @classmethod
    def fit(cls, moments: Moments) -> "Follower":
        """The more values a frame has and the fewer frames there are, the less their covariance is believed."""
        frames, xx, yy, xy = moments
        scale_x, scale_y = ((products.diagonal() / frames).sqrt().clamp(min=STILL) for products in (xx, yy))
        xx, yy = xx / frames / torch.outer(scale_x, scale_x), yy / frames / torch.outer(scale_y, scale_y)
        whiten_x, whiten_y = (whitening(products, frames) for products in (xx, yy))
        likeness = whiten_x @ (xy / frames / torch.outer(scale_x, scale_y)) @ whiten_y.T
        u, s, v = torch.linalg.svd(likeness, full_matrices=False)
        of_x, of_y = whiten_x.T @ u[:, :RANKS], whiten_y.T @ v.T[:, :RANKS]
        return cls(of_x / scale_x[:, None], of_y / scale_y[:, None], s[:RANKS])

    def by_lag(self, x: Tensor, y: Tensor) -> Tensor:
        """Correlation (L,) of x_t and y_(t + lag) for lags of -15 to 15 frames; positive: y comes late.

        Tracks (T, X) and (T, Y) of more than 15 frames. Over all directions together, the closest counting most; 0 if a
        side does not move.
        """
        x, y = (centred(track) @ way * self.closeness.sqrt() for track, way in ((x, self.of_x), (y, self.of_y)))
        return torch.tensor([together(x.numpy(), y.numpy(), lag) for lag in range(-MAX_LAG, MAX_LAG + 1)])


def together(x: np.ndarray, y: np.ndarray, lag: int) -> float:
    """Correlation of x_t and y_(t + lag), tracks (T, R), over all their values; 0 if a side does not move."""
    frames = len(x) - abs(lag)
    a, b = x[max(0, -lag) :][:frames], y[max(0, lag) :][:frames]
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    moved = np.sqrt((a * a).mean() * (b * b).mean())
    return float((a * b).mean() / moved) if moved > STILL**2 else 0.0


def whitening(products: Tensor, frames: int) -> Tensor:
    """What makes values with these mean products (X, X) uncorrelated: the inverse of a Cholesky factor (X, X)."""
    ridge = max(LEAST_RIDGE, len(products) / frames)
    eye = torch.eye(len(products), dtype=products.dtype)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(products + ridge * eye), eye, upper=False)


def centred(track: Tensor) -> Tensor:
    return track - track.mean(dim=0)


def spread(vectors: Tensor) -> Tensor:
    """Standard deviation (F,) of each feature, not 0."""
    return vectors.std(dim=0, correction=0).clamp(min=STILL)
