"""How well one kind of input finds another by emotion: the figure that says whether the emotion space works."""

import numpy as np
import torch
from torch import Tensor


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
        The share of right answers; NaN where queries and gallery share no emotion.
    """
    rng = np.random.default_rng([seed, 8])
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
