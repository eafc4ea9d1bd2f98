"""The engines of a stage that no run has made."""

from typing import Any

from emohead.trainers.engines.deepspeed import DeepSpeedEngine
from emohead.trainers.engines.plain import LossScale, PlainEngine
from emohead.trainers.stage import Stage


def attach_engines(stage: Stage, zero: int | None = None, rank: int = 0) -> None:
    """Give each network that a stage trains its engine: a plain one, or DeepSpeed's of a ZeRO stage."""
    scale = LossScale(stage.config.trainer.precision == "16-mixed")
    for (name, module), optimizer in zip(stage.trained().items(), stage.configure_optimizers(), strict=True):
        common: dict[str, Any] = {"clip_norm": stage.clip_norm(name), "scale": scale}
        if zero is None:
            stage.engines[name] = PlainEngine(module, optimizer, **common)
        else:
            own = {"zero_stage": zero, "offload": False, "device": stage.device, "local_rank": rank}
            stage.engines[name] = DeepSpeedEngine(module, optimizer, **own, **common)
