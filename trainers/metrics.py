"""The arithmetic of figures that training and evaluation both report: PSNR, correlation, retrieval by
emotion, landmark distances (F-LMD, M-LMD)."""

import numpy as np
import torch
from torch import Tensor

from ..models.face_model import MOUTH, POSE_DIM, FaceModel

GALLERIES = 8  # names the random numbers that retrieval draws; any other would do
PIXELS = 256  # of the pictures in which landmark distances are counted
LEAST_ERROR = 1e-10  # mean square of a picture in [-1, 1]: with less, PSNR would be infinite
LEAST_DETAIL = 1.25 * (2 / 255) ** 2 / 12  # mean square of the detail that rounding to 256 steps makes


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of pictures (B, 3, S, S) in [-1, 1], in dB each (B,).

    What lies outside the range is clipped, as in a video. The figure is the textbook's, so that it can be compared with
    those of papers: nothing is added to the error. That would take 0.01 dB at 25 dB and 3 dB at 50 dB. A picture that
    is equal to the true one has 106 dB, since infinity has no mean.
    """
    error = (frames.float().clamp(-1, 1) - truth.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=LEAST_ERROR))


def sharpness(frames: Tensor, truth: Tensor) -> Tensor:
    """Energy of the finest detail of pictures (B, 3, S, S) in [-1, 1] over that of the true ones, each (B,).

    1 is ideal; blurred pictures have less, noisy ones more. Detail is what a pixel differs from the mean of its four
    neighbours by (the discrete Laplacian); noise of a picture's 256 steps is added to both, so that a picture without
    any detail has a figure too.
    """
    found, wanted = (detail(part.float().clamp(-1, 1)).square().flatten(1).mean(1) for part in (frames, truth))
    return (found + LEAST_DETAIL) / (wanted + LEAST_DETAIL)


def detail(pictures: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H - 2, W - 2): each pixel less the mean of its neighbours above, below, left and right."""
    above, below = pictures[..., :-2, 1:-1], pictures[..., 2:, 1:-1]
    left, right = pictures[..., 1:-1, :-2], pictures[..., 1:-1, 2:]
    return pictures[..., 1:-1, 1:-1] - (above + below + left + right) / 4


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's over the last axis, (..., T) each -> (...); 0 if one side does not move."""
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    return (a * b).sum(dim=-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp(min=1e-8)


def emotion_retrieval(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    counted: Tensor | None = None,
    rounds: int = 50,
    seed: int = 0,
) -> float:
    """Top-1 retrieval by emotion, chance being 1 / the number of emotions.

    In each round the gallery is cut down to one random item of each emotion; a query is right if the nearest of them
    has its emotion. Only emotions that both sides hold take part; items without a label (-1) never do.

    Args:
        queries, gallery: unit vectors (Q, E) and (G, E); their labels (Q,) and (G,).
        counted: which queries the figure is over, a mask (Q,); the galleries are those of all. None: all of them.
        rounds: random galleries that the figure is averaged over.

    Returns:
        The share of right answers; NaN if queries and gallery share no emotion.
    """
    rng = np.random.default_rng([seed, GALLERIES])
    emotions = sorted((set(query_labels.tolist()) & set(gallery_labels.tolist())) - {-1})
    if not emotions:
        return float("nan")
    asked = torch.isin(query_labels, torch.tensor(emotions))
    if counted is not None:
        asked &= counted
    items = [torch.nonzero(gallery_labels == emotion)[:, 0].tolist() for emotion in emotions]
    picks = torch.tensor([[rng.choice(choice) for choice in items] for _ in range(rounds)])  # (R, emotions)
    similarity = queries[asked].float() @ gallery.float().T  # (Q, G)
    nearest = similarity[:, picks].argmax(dim=-1)  # (Q, R)
    right = torch.tensor(emotions)[nearest] == query_labels[asked][:, None]
    return right.float().mean().item()


def landmark_distances(face_model: FaceModel, identity: Tensor, motion: Tensor, truth: Tensor) -> tuple[float, float]:
    """F-LMD and M-LMD of motion (T, D) against the true one, both on the true head pose and identity (I,).

    Each is the mean distance, in pixels of a picture of 256, of corresponding iBUG landmarks (all 68, or the 20 of the
    mouth) after the mean of those landmarks is taken from each frame: the place of face or mouth does not count, their
    shape does. The names are those of Chen et al. 2018 (LMD); papers differ in alignment and size, this is ours.
    """
    posed = torch.cat([motion[:, :-POSE_DIM], truth[:, -POSE_DIM:]], dim=1)
    both = [face_model.landmarks(identity, m) * (PIXELS / 2) for m in (posed, truth)]  # (T, 68, 2)
    distances = []
    for part in (slice(None), MOUTH):
        a, b = (points[:, part] - points[:, part].mean(dim=1, keepdim=True) for points in both)
        distances.append(float((a - b).norm(dim=-1).mean()))
    return distances[0], distances[1]
