"""Samples from videos to batches: prepare, pack, stream, decode."""

from ..models.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()  # before the first import of Lightning, here or in trainers
