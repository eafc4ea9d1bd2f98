"""A pretrained speech encoder in place of log-mel: wav2vec 2.0, HuBERT or WavLM from a local folder, frozen.

    speech ─ zero mean, unit variance ─ encoder ─ weighted sum of its layers ─ features ─ stem ─ tokens

The learned sum is that of SUPERB (Yang et al. 2021, "Speech Processing Universal PERformance Benchmark").
transformers is imported inside the functions: networks that hear log-mel never need it.

Shapes: B batch, T frames of video (25 a second), N = T * 640 samples, F width of the encoder, C channels.
Alignment: feature 2t is centred on sample t * 640, as mel frame 4t is; token t sees features 2t - 1 to 2t + 2, centred
on 2t + 0.5. The encoder's convolutions make a feature of 400 samples every 320, so of N samples 2T - 1, with feature 2t
centred 200 samples late: hence 200 samples of silence go before the speech, and its last 120 are not heard. Attention
then lets each feature know of all others.
"""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .errors import UserError
from .timing import SAMPLES_PER_FRAME
from .torchvision_ops import declare_torchvision_ops

KINDS = ("wav2vec2", "hubert", "wavlm")
RATE = 2  # features a frame of video
HOP = SAMPLES_PER_FRAME // RATE  # samples a feature
LONGEST = 500  # frames that the encoder hears at once, beside
CONTEXT = 50  # so many to either side: its attention takes memory that grows with the square of the length
FROZEN = {  # for training an encoder only; and an adapter would change the rate of its features
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "add_adapter": False,
}


class PretrainedSpeech(nn.Module):
    """Speech (B, N) -> features (B, F, 2T); silence fills N up to whole frames of video.

    The encoder has no gradients and stays in eval mode; the weights of the sum over its layers are trained.
    It has the configuration that `read_config` read and the weights of its folder. Without a folder its weights are
    random, for those of a checkpoint to take their place.
    """

    rate = RATE

    def __init__(self, config: dict[str, Any], folder: str = "") -> None:
        super().__init__()
        self.encoder = build_encoder(config, folder).requires_grad_(False).eval()
        self.normalised = config["do_normalize"]
        self.num_features = self.encoder.config.hidden_size
        self.width = receptive_field(self.encoder.config)
        self.layer_weights = nn.Parameter(torch.zeros(self.encoder.config.num_hidden_layers + 1))

    def train(self, mode: bool = True) -> "PretrainedSpeech":
        super().train(mode)
        self.encoder.eval()  # no dropout, no dropped layers: frozen means frozen
        return self

    def forward(self, speech: Tensor) -> Tensor:
        missing = -speech.shape[-1] % SAMPLES_PER_FRAME
        before = self.width // 2
        speech = F.pad(self.normalise(speech.float()), (before, self.width - HOP - before + missing))
        num_frames = speech.shape[-1] // SAMPLES_PER_FRAME
        pieces = []
        for start in range(0, num_frames, LONGEST):
            end = min(start + LONGEST, num_frames)
            first, last = max(0, start - CONTEXT), min(end + CONTEXT, num_frames)
            heard = speech[:, first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME + self.width - HOP]
            pieces.append(self.encode(heard)[..., (start - first) * RATE : (end - first) * RATE])
        return torch.cat(pieces, dim=-1)

    def normalise(self, speech: Tensor) -> Tensor:
        """Normalise each clip as a whole, as the feature extractor of these models does."""
        if not self.normalised:
            return speech
        variance, mean = torch.var_mean(speech, dim=-1, keepdim=True, correction=0)
        return (speech - mean) * torch.rsqrt(variance + 1e-7)

    def encode(self, speech: Tensor) -> Tensor:
        """Padded speech (B, 640 T + 80) -> features (B, F, 2T)."""
        with torch.no_grad():
            found = self.encoder(speech.to(self.layer_weights.dtype), output_hidden_states=True)
        # Whether the last of the hidden states has passed the final norm differs between versions of transformers.
        layers = [*found.hidden_states[:-1], found.last_hidden_state]  # each (B, 2T, F)
        shares = self.layer_weights.float().softmax(dim=0)
        features = torch.zeros_like(layers[0], dtype=torch.float32)
        for share, layer in zip(shares, layers, strict=True):  # no stack: a copy of all layers would take much memory
            features = features + share * layer.float()
        return rearrange(features, "b t f -> b f t")


class SpeechStem(nn.Module):
    """Features (B, F, 2T) -> tokens (B, T, C). The halving is centred on the middle of its pair of inputs."""

    def __init__(self, num_features: int, dim: int) -> None:
        super().__init__()
        self.level = nn.LayerNorm(num_features)  # layers of large encoders differ in scale by orders of magnitude
        self.enter = nn.Conv1d(num_features, dim, kernel_size=3, padding=1)
        self.halve = nn.Conv1d(dim, dim, kernel_size=4, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        x = self.level(rearrange(features.to(self.enter.weight.dtype), "b f t -> b t f"))
        x = F.gelu(self.enter(rearrange(x, "b t f -> b f t")))
        return self.norm(rearrange(F.gelu(self.halve(x)), "b c t -> b t c"))


def receptive_field(config: Any) -> int:
    """Samples that one output of the convolutions sees: 400 in all published encoders."""
    width, hop = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        width, hop = width + (kernel - 1) * hop, hop * stride
    return width


def read_config(folder: str) -> dict[str, Any]:
    """The config.json of an encoder, with `do_normalize` of its preprocessor_config.json; weights are not read.

    Raises:
        UserError: the folder, its config.json or its model.safetensors is missing, or it holds another kind of model.
    """
    path, name = Path(folder), f"network.speech_encoder={folder}"
    if not path.is_dir():
        raise UserError(name, "no such folder", "wanted is one with config.json and model.safetensors")
    if not (path / "config.json").is_file():
        raise UserError(name, "has no config.json", "wanted is a folder as transformers' save_pretrained writes it")
    config = _read_json(path / "config.json")
    if config.get("model_type") not in KINDS:
        raise UserError(name, f"holds a '{config.get('model_type')}' model", f"wanted is one of {', '.join(KINDS)}")
    if not (path / "model.safetensors").is_file():
        pickled = next((file.name for file in sorted(path.glob("*.bin"))), None)
        found = f"{pickled} is a pickle, which can run code and is not read" if pickled else "has no model.safetensors"
        raise UserError(name, found, "convert the model with transformers' save_pretrained, into one file")
    extractor = path / "preprocessor_config.json"
    normalised = _read_json(extractor).get("do_normalize", True) if extractor.is_file() else True
    return config | {"do_normalize": normalised}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(path, f"not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(path, "wanted is a mapping of keys to values")
    return content


def build_encoder(config: dict[str, Any], folder: str) -> Any:
    """The model of transformers, in float32, with the weights in a local folder or with random ones.

    Raises:
        UserError: transformers is missing, or the weights or the configuration do not fit.
    """
    transformers = import_transformers()
    name = f"network.speech_encoder={folder}" if folder else f"the checkpoint's {config['model_type']} encoder"
    missing: list[str] = []
    try:
        logging.disable(logging.WARNING)  # it warns of heads that are not needed here
        made = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(config | FROZEN)
        if math.prod(made.conv_stride) != HOP:
            raise ValueError(f"makes a feature of {math.prod(made.conv_stride)} samples, wanted is {HOP}")
        if folder:
            files = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
            encoder, report = transformers.AutoModel.from_pretrained(
                folder, config=made, output_loading_info=True, **files
            )
            missing = sorted(report["missing_keys"])
        else:
            encoder = transformers.AutoModel.from_config(made)
    except Exception as error:  # of many libraries' own kinds: any of them means that a file does not fit
        reason = " ".join(str(error).split())[:200]
        raise UserError(name, f"cannot be loaded ({reason})") from None
    finally:
        logging.disable(logging.NOTSET)
    if missing:
        raise UserError(name, f"model.safetensors lacks {len(missing)} weights of its config.json: {missing[0]} ...")
    encoder = encoder.float()
    for module in encoder.modules():  # a frozen weight needs no norm of its own, and is then a plain tensor to ZeRO
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return encoder


def import_transformers() -> Any:
    declare_torchvision_ops()
    try:
        import transformers
    except ImportError:
        raise UserError("a pretrained speech encoder needs transformers", "pip install 'emohead[speech]'") from None
    transformers.utils.logging.disable_progress_bar()
    return transformers
