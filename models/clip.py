"""The text and image towers of CLIP, through open_clip. Nothing here downloads unless a pretrained tag is named.

open_clip is imported inside the functions: networks that need neither tower never pay for it.
"""

import json
import logging
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from .errors import UserError
from .torchvision_ops import declare_torchvision_ops

TINY = "emohead-tiny"
TINY_CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "timm_model_name": "emohead_tiny_tower", "timm_pool": "", "timm_proj": ""},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


class ClipTowers(NamedTuple):
    text: nn.Module  # tokens (B, L) -> (B, E)
    image: nn.Module  # normalised pixels (B, 3, S, S) -> (B, E)
    tokenize: Callable[[list[str]], Tensor]
    embed_dim: int
    image_size: int
    image_mean: tuple[float, float, float]  # of pixels in [0, 1]
    image_std: tuple[float, float, float]


def build_towers(name: str, pretrained: str = "") -> ClipTowers:
    """The two towers of an open_clip model.

    Args:
        name: "emohead-tiny" or any model name of open_clip. OpenAI's own weights need a name that ends in -quickgelu.
        pretrained: a local file of weights, a pretrained tag of open_clip (the one case that downloads), or "" for
            random weights.

    Raises:
        UserError: the name is unknown, or the weights cannot be found or do not fit the model.
    """
    open_clip = import_open_clip()
    if open_clip.get_model_config(name) is None:
        raise UserError(
            f"network.clip={name}",
            "no such open_clip model",
            f"see open_clip.list_models(), or use {TINY}",
        )
    _check_weights(open_clip, name, pretrained)
    try:
        # One module for the whole text tower, as `force_custom_text` gives, can be frozen or copied on its own.
        logging.disable(logging.WARNING)  # it warns that random weights are random
        clip = open_clip.create_model(
            name, pretrained=pretrained or None, force_custom_text=True, pretrained_text=False
        )
        tokenize = open_clip.get_tokenizer(name)
    except (RuntimeError, OSError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"network.pretrained={pretrained or '(none)'}",
            f"cannot load it into network.clip={name} ({reason})",
            "give the weights of that very model",
        ) from None
    finally:
        logging.disable(logging.NOTSET)
    return _towers(clip, tokenize, open_clip.get_model_config(name)["embed_dim"])


def _towers(clip: Any, tokenize: Callable[[list[str]], Tensor], embed_dim: int) -> ClipTowers:
    size = clip.visual.image_size
    return ClipTowers(
        text=clip.text,
        image=clip.visual,
        tokenize=tokenize,
        embed_dim=embed_dim,
        image_size=size[0] if isinstance(size, tuple) else size,
        image_mean=tuple(clip.visual.preprocess_cfg["mean"]),
        image_std=tuple(clip.visual.preprocess_cfg["std"]),
    )


def top_blocks(tower: nn.Module, count: int) -> list[nn.Module]:
    """The last `count` blocks of a tower: of the list of modules that holds most of its weights."""
    lists = [m for m in tower.modules() if isinstance(m, (nn.ModuleList, nn.Sequential)) and len(m) > 1]
    blocks = list(max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()), default=nn.ModuleList()))
    if count > len(blocks):
        raise UserError(f"network.trainable_blocks={count}", f"a tower has {len(blocks)} blocks", "give that or fewer")
    return blocks[len(blocks) - count :]


def _check_weights(open_clip: Any, name: str, pretrained: str) -> None:
    """Refuse what open_clip would only warn about, or fail on with a stack of its own."""
    if not pretrained or Path(pretrained).is_file():
        return
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise UserError(
            f"network.pretrained={pretrained}",
            f"neither a file nor a pretrained tag of {name} (tags: {known})",
        )
    if tag.get("quick_gelu", False) != open_clip.get_model_config(name).get("quick_gelu", False):
        other = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
        raise UserError(
            f"network.pretrained={pretrained}",
            "was trained with another GELU",
            f"set network.clip={other}",
        )


def import_open_clip() -> Any:
    """open_clip with our tiny model among its configurations."""
    declare_torchvision_ops()
    import open_clip

    if open_clip.get_model_config(TINY) is None:
        from . import tiny_tower

        tiny_tower.register()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{TINY}.json"
            path.write_text(json.dumps(TINY_CONFIG))
            open_clip.add_model_config(path)
    return open_clip
