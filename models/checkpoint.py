"""The files that carry weights between stages: safetensors with config, checksum and provenance, and no pickle."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import UserError
from .files import written_aside

FORMAT = "1"
COMMANDS = {  # that export a kind; an export of another stage is described by its kind
    "emotion": "emohead train emotion",
    "motion": "emohead train motion",
    "face": "emohead train face",
    "talker": "emohead train distill",
}


def command(kind: str) -> str:
    """The command that exports a kind, as far as this file knows."""
    return COMMANDS.get(kind, f"emohead train {kind}")


@dataclass
class Checkpoint:
    path: Path
    kind: str  # emotion, motion, face or talker
    config: dict[str, Any]  # rebuilds the network
    provenance: dict[str, Any]  # data, steps, versions, the checkpoints it was made from
    tensors: dict[str, Tensor]
    sha256: str


class Exported(nn.Module):
    """Base of the networks that runs export: each can be rebuilt from its file alone."""

    kind: ClassVar[str]  # of its file

    @staticmethod
    def config_of(values: dict[str, Any]) -> Any:
        """The network's configuration, from the plain containers of its file."""
        raise NotImplementedError

    @classmethod
    def from_checkpoint(cls, path: Path | str, **changes: Any) -> Self:
        """The network that a run exported; raises UserError if the file is damaged or holds none of its kind."""
        return cls.rebuild(load_checkpoint(path, kind=cls.kind), **changes)

    @classmethod
    def rebuild(cls, checkpoint: Checkpoint, **changes: Any) -> Self:
        """The network of a checkpoint. Raises UserError if the file holds another version of the network.

        changes: settings that replace those of the file, such as fewer `towers`; the tensors of parts that are then
        missing are left out.
        """
        tensors = checkpoint.tensors
        try:
            network = cls(replace(cls.config_of(checkpoint.config), **changes))
            if changes:
                own = network.state_dict()
                tensors = {name: tensor for name, tensor in tensors.items() if name in own}
            network.load_state_dict(tensors)
        except (RuntimeError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                checkpoint.path,
                f"does not fit the network of this emohead ({reason})",
                "export it again",
            ) from None
        return network


def tensor_checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def save_checkpoint(
    path: Path | str,
    tensors: dict[str, Tensor],
    *,
    kind: str,
    config: dict[str, Any],
    provenance: dict[str, Any] | None = None,
) -> str:
    """Write aside, then rename. Returns the checksum of the tensors."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Copies, since safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    checksum = tensor_checksum(tensors)
    metadata = {
        "format": FORMAT,
        "kind": kind,
        "config": json.dumps(config, sort_keys=True),
        "provenance": json.dumps(provenance or {}, sort_keys=True),
        "sha256": checksum,
    }
    with written_aside(path) as aside:
        save_tensors(tensors, aside, metadata)
    return checksum


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file that others may read as the umask says; the library would let only its owner."""
    save_file(tensors, path, metadata=metadata)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def read_header(path: Path | str, *, kind: str | None = None) -> dict[str, str]:
    """The header of a checkpoint (kind, config, provenance, sha256); its weights are neither read nor verified.

    Raises:
        UserError: the file is missing, cut off or no safetensors file, of another format version, or not of the `kind`
            asked for.
    """
    if kind is not None and not str(path):
        raise UserError(
            f"no {kind} checkpoint given",
            f"set `{kind}=FILE.safetensors`, the export of `{command(kind)}`",
        )
    path = Path(path)
    if path.is_file() and not os.access(path, os.R_OK):
        raise UserError(path, "may not be read", "see its permissions")
    if not path.is_file():
        raise UserError(path, "no such checkpoint", f"`{command(kind)}` exports one" if kind else "")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if metadata.get("format") != FORMAT:
        raise UserError(
            path,
            f"checkpoint format {metadata.get('format')}, this emohead reads {FORMAT}",
            "export it again",
        )
    if kind is not None and metadata["kind"] != kind:
        raise UserError(
            path,
            f"holds a '{metadata['kind']}' network, wanted is '{kind}', the export of `{command(kind)}`",
        )
    return metadata


def load_checkpoint(path: Path | str, *, kind: str | None = None) -> Checkpoint:
    """Read and verify what `save_checkpoint` wrote.

    Raises:
        UserError: the file is missing, damaged, of another format version, or not of the `kind` asked for.
    """
    metadata = read_header(path, kind=kind)
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    checksum = tensor_checksum(tensors)
    if checksum != metadata["sha256"]:
        raise UserError(path, "damaged (its weights do not match their checksum)", "export it again")
    config, provenance = json.loads(metadata["config"]), json.loads(metadata["provenance"])
    return Checkpoint(path, metadata["kind"], config, provenance, tensors, checksum)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(path, f"not a readable safetensors file ({error})", "export it again")
