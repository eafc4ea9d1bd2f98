"""The stages that `emohead train` knows, in the order of the chain."""

from .distill import DistillStage
from .emotion import EmotionStage
from .face import FaceStage
from .motion import MotionStage
from .stage import Stage

STAGES: dict[str, type[Stage]] = {stage.name: stage for stage in (EmotionStage, MotionStage, FaceStage, DistillStage)}
