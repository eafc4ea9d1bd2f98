"""How each stage learns: one LightningModule a file, the run around it, its evaluation."""

from .. import datamodules as _  # noqa: F401  (readies torchvision before Lightning is imported)
