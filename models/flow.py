"""Dense flow: the one place that fixes what a flow means, and the coarse flow that landmarks give.

Shapes: B batch, C channels, H x W pixels, N landmarks.

Convention: flow (B, 2, H, W) holds (x, y) in crop units, where the image spans [-1, 1] from edge to edge (pixel i
covers [i, i + 1), so `align_corners=False`). Warping is backward: output(u) = source(u + flow(u)); what lies outside
the source repeats its border. Grids are always float32: bfloat16 has 8 bits, less than a pixel of a 256-pixel picture.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .channels_last import double, sample_rows
from .full_precision import full_precision


def pixel_centres(size: int, device: torch.device | None = None) -> Tensor:
    """Crop coordinates of the centres of `size` pixels: (size,) float32."""
    return (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1


def identity_grid(size: int, device: torch.device | None = None) -> Tensor:
    """The crop coordinates of every pixel centre: (2, size, size), x first."""
    centres = pixel_centres(size, device)
    return torch.stack([centres.expand(size, size), centres[:, None].expand(size, size)])


def warp(source: Tensor, flow: Tensor, gain: Tensor | None = None) -> Tensor:
    """Sample `source` (B, C, H, H) at u + flow(u); flow (B, 2, h, h) -> (B, C, h, h), type and layout of `source`.

    A gain (B, 1, h, h) scales what is read. On a CPU the source has 2 x 2 pixels at least.
    """
    grid = (identity_grid(flow.shape[-1], flow.device) + flow.float()).permute(0, 2, 3, 1)  # (B, h, h, 2)
    compiled = torch.compiler.is_compiling()  # the compiler makes a kernel of its own
    with full_precision():
        if source.device.type == "cpu":
            sampled = sample_rows(source, grid, gain)
        elif not compiled and layout(source) == torch.channels_last and kernel_works(source.device):
            from .warp_kernel import sample_rows as read_rows

            sampled = read_rows(source, grid, gain)
        else:
            sampled = F.grid_sample(source.float(), grid, padding_mode="border", align_corners=False)
            sampled = sampled if gain is None else sampled * gain.float()
    return sampled.to(source.dtype, memory_format=layout(source))


@cache
def kernel_works(device: torch.device) -> bool:
    """Whether a GPU warps by our kernel: Triton is there, sums may have any order, and the kernel has passed a try."""
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return False
    try:
        from .warp_kernel import works
    except ImportError:
        return False
    return works(device)


def layout(image: Tensor) -> torch.memory_format:
    """Whether the channels of (B, C, H, W) lie last in memory, or first; a batch may be one picture expanded."""
    return torch.channels_last if image.stride(1) == 1 else torch.contiguous_format


def join(*maps: Tensor) -> Tensor:
    """Maps (B, C_i, H, W) side by side -> (B, sum of C_i, H, W), channels last.

    Such maps are rows in memory; torch.cat takes several times as long for the maps as for the rows.
    """
    return torch.cat([map.permute(0, 2, 3, 1) for map in maps], dim=-1).permute(0, 3, 1, 2)


def sample(source: Tensor, points: Tensor) -> Tensor:
    """Read `source` (B, C, H, H) at points (B, P, 2) in crop units -> (B, C, P)."""
    with full_precision():
        found = F.grid_sample(source.float(), points[:, None].float(), padding_mode="border", align_corners=False)
    return found[:, :, 0].to(source.dtype)


def resize(image: Tensor, size: int) -> Tensor:
    """Bilinear to (B, C, size, size). On a CPU, doubling the size can be differentiated only once.

    A flow needs no rescaling: crop units do not depend on the number of pixels.
    """
    if image.device.type == "cpu" and image.shape[2:] == (size // 2, size // 2) and size % 2 == 0:
        return double(image)
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


def landmark_flow(
    source: Tensor, target: Tensor, size: int, *, softness: float = 0.02, background: float = 1000.0
) -> Tensor:
    """The coarse flow that carries the landmarks `source` to `target`, both (B, N, 2) -> (B, 2, size, size).

    Inverse-distance (Shepard) weights of the displacements around the target's landmarks; `softness` (crop units)
    rounds the peaks and `background` is the weight of not moving at all, so the flow fades out away from the face.
    Detail is left to the network.
    """
    centres = pixel_centres(size, target.device)
    dx = (centres - target[..., :1]).square()  # (B, N, W)
    dy = (centres - target[..., 1:]).square()  # (B, N, H)
    weights = (dy[..., :, None] + dx[..., None, :] + softness**2).pow(-2)  # (B, N, H, W)
    with full_precision():  # weights reach softness ** -4, too much for float16
        moved = torch.einsum("bnhw,bnc->bchw", weights, source - target)
    return moved / (weights.sum(1, keepdim=True) + background)


def landmark_maps(landmarks: Tensor, size: int, width: float) -> Tensor:
    """A Gaussian bump of deviation `width` (crop units) for each landmark (B, N, 2) -> (B, N, size, size)."""
    centres = pixel_centres(size, landmarks.device)
    bumps = (-0.5 * ((centres - landmarks[..., None]) / width).square()).exp()  # (B, N, 2, size): x, then y
    return bumps[:, :, 1, :, None] * bumps[:, :, 0, None, :]
