"""The stages that `emohead train` knows, in the order of the chain."""

from ..models.errors import UserError
from .distill import DistillStage
from .emotion import EmotionStage
from .face import FaceStage
from .motion import MotionStage
from .stage import Stage

STAGES: dict[str, type[Stage]] = {stage.name: stage for stage in (EmotionStage, MotionStage, FaceStage, DistillStage)}


def find_stage(name: str) -> type[Stage]:
    """Raises UserError if there is no such stage."""
    if name not in STAGES:
        raise UserError(f"'{name}'", "no such stage", f"one of {', '.join(STAGES)}")
    return STAGES[name]
