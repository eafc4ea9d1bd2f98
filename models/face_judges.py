"""Networks that say which emotion a face shows and whose it is, with weights that come inside packages of others.

They judge videos that others have made, and nothing learns from them. The packages are MIT's; on which pictures their
weights were trained is not documented well. Nothing of them is shipped here: see trainers/evaluation/faces.py.

Faces are pictures (B, 3, S, S) in [-1, 1], cropped as `square` says; S is the network's own.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import keras_weights
from .tfjs import convolve, padded, read_weights

EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fear", "disgusted", "surprised")  # contempt has no class


class FaceApiExpression:
    """Seven expressions: the network of face-api (four dense blocks of separable convolutions)."""

    size, room = 112, 0.9  # pixels, and side of the crop over the height of the tracked face
    mean = (122.782, 117.001, 104.298)  # of RGB in bytes

    def __init__(self, package: Path) -> None:
        self.weights = read_weights(package / "model" / "face_expression_model-weights_manifest.json")

    @torch.no_grad()
    def __call__(self, faces: Tensor) -> Tensor:
        """Faces (B, 3, 112, 112) -> log probabilities of EXPRESSIONS (B, 7)."""
        x = (((faces + 1) * 127.5) - torch.tensor(self.mean)[:, None, None]) / 255
        for block in range(4):
            x = self._dense(x, f"dense{block}", first=block == 0)
        x = F.avg_pool2d(x, 7, 2).flatten(1)  # (B, 256)
        return F.log_softmax(x @ self.weights["fc/weights"] + self.weights["fc/bias"], dim=1)

    def _dense(self, x: Tensor, name: str, *, first: bool) -> Tensor:
        """Four convolutions, of which each hears the sum of all before it."""
        total = torch.relu(self._plain(x, f"{name}/conv0") if first else self._separable(x, f"{name}/conv0", stride=2))
        found = total + self._separable(total, f"{name}/conv1")
        for layer in (2, 3):
            found = found + self._separable(torch.relu(found), f"{name}/conv{layer}")
        return torch.relu(found)

    def _plain(self, x: Tensor, name: str) -> Tensor:
        return convolve(x, self.weights[f"{name}/filters"], 2) + self.weights[f"{name}/bias"][:, None, None]

    def _separable(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        x = convolve(x, self.weights[f"{name}/depthwise_filter"], stride, depthwise=True)
        return convolve(x, self.weights[f"{name}/pointwise_filter"]) + self.weights[f"{name}/bias"][:, None, None]


class FerExpression:
    """Seven expressions: the network of fer (a mini-Xception of Arriaga et al. 2017, arXiv:1710.07557)."""

    size, room = 64, 0.9
    grey = (0.299, 0.587, 0.114)  # of RGB
    classes = ("angry", "disgusted", "fear", "happy", "sad", "surprised", "neutral")

    def __init__(self, file: Path) -> None:
        self.weights = keras_weights.read_weights(file)

    @torch.no_grad()
    def __call__(self, faces: Tensor) -> Tensor:
        """Faces (B, 3, 64, 64) -> log probabilities of EXPRESSIONS (B, 7)."""
        x = (faces * torch.tensor(self.grey)[:, None, None]).sum(dim=1, keepdim=True)
        for layer in (1, 2):  # the frame is cut off where the kernel looks beyond the picture
            x = convolve(x, self.weights[f"conv2d_{layer}/kernel"])[:, :, 1:-1, 1:-1]
            x = torch.relu(self._normal(x, layer))
        for block in (1, 2, 3, 4):
            x = self._block(x, block)
        x = convolve(x, self.weights["conv2d_7/kernel"]).mean((2, 3)) + self.weights["conv2d_7/bias"]
        return F.log_softmax(x, dim=1)[:, [self.classes.index(name) for name in EXPRESSIONS]]

    def _block(self, x: Tensor, block: int) -> Tensor:
        """Two separable convolutions and pooling, beside one convolution that leaves out every second pixel."""
        short = self._normal(convolve(x, self.weights[f"conv2d_{block + 2}/kernel"], 2), 3 * block)
        x = torch.relu(self._normal(self._separable(x, 2 * block - 1), 3 * block + 1))
        x = self._normal(self._separable(x, 2 * block), 3 * block + 2)
        return F.max_pool2d(padded(x, 3, 3, 2, value=-torch.inf), 3, 2) + short

    def _separable(self, x: Tensor, layer: int) -> Tensor:
        x = convolve(x, self.weights[f"separable_conv2d_{layer}/depthwise_kernel"], depthwise=True)
        return convolve(x, self.weights[f"separable_conv2d_{layer}/pointwise_kernel"])

    def _normal(self, x: Tensor, layer: int) -> Tensor:
        names = ("moving_mean", "moving_variance", "gamma", "beta")
        mean, variance, weight, bias = (self.weights[f"batch_normalization_{layer}/{name}"] for name in names)
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)


class IdentityJudge:
    """Who a face is: the features of human's `faceres` (a MobileNet of Howard et al. 2017)."""

    size, room = 224, 1.25
    mean = (93.594, 104.762, 129.186)  # of BGR in bytes
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self, package: Path) -> None:
        self.weights = read_weights(package / "models" / "faceres.json")

    @torch.no_grad()
    def __call__(self, faces: Tensor) -> Tensor:
        """Faces (B, 3, 224, 224) -> unit vectors (B, 1024): their products are the likeness."""
        x = ((faces.flip(1) + 1) * 127.5) - torch.tensor(self.mean)[:, None, None]
        x = self._shifted(convolve(x, self.weights["conv1/convolution/merged_input"], 2), "conv1_bn")
        for block, stride in enumerate(self.strides, start=1):
            depthwise = self.weights[f"conv_dw_{block}/depthwise_kernel"]
            x = convolve(x, depthwise, stride, depthwise=True)
            x = x * self.weights[f"conv_dw_{block}_bn/batchnorm_1/mul"].flatten()[:, None, None]
            x = self._shifted(x, f"conv_dw_{block}_bn")
            x = self._shifted(
                convolve(x, self.weights[f"conv_pw_{block}/convolution/merged_input"]), f"conv_pw_{block}_bn"
            )
        return F.normalize(x.mean((2, 3)), dim=1)

    def _shifted(self, x: Tensor, name: str) -> Tensor:
        return (x + self.weights[f"{name}/batchnorm_1/sub"].flatten()[:, None, None]).clamp(0, 6)


def square(frames: Tensor, points: Tensor, size: int, room: float) -> Tensor:
    """Faces cut out of frames (B, 3, S, S) in [-1, 1], about tracked points (B, N, 2) in pixels -> (B, 3, size, size).

    An upright square about the middle of the points' box, whose side is its height times `room`. Outside lies black.
    """
    low, high = points.amin(dim=1), points.amax(dim=1)  # (B, 2)
    middle, side = (low + high) / 2, (high - low)[:, 1] * room
    centres = (torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5
    grid = torch.stack([centres.expand(size, size), centres[:, None].expand(size, size)], dim=-1)  # (size, size, 2)
    where = middle[:, None, None] + grid * side[:, None, None, None]
    where = where * (2 / frames.shape[-1]) - 1
    smooth = F.interpolate(frames, scale_factor=0.5, mode="area") if float(side.mean()) > 2 * size else frames
    return F.grid_sample(smooth + 1, where, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
