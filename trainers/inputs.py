"""What an export must have in common with the run that starts from it, and with data that it is measured on."""

from collections.abc import Sequence

from ..models.checkpoint import Checkpoint
from ..models.errors import UserError

IN_A_FACE_MODEL = ("motion", "face", "talker")  # kinds of exports that read or write its coefficients


def check_held_out(held_out: Sequence[str], where: str, checkpoint: Checkpoint) -> None:
    """Raises UserError if a stage holds out other emotions than one it builds on: no stage may have seen them.

    where: the key of the checkpoint and its file.
    """
    trained = checkpoint.provenance.get("config", {}).get("data", {})
    if not trained:  # exported by hand
        return
    before, now = (sorted(found) for found in (trained.get("holdout_emotions", []), held_out))
    if before != now:
        problem = f"was trained with data.holdout_emotions=[{','.join(before)}], this stage has [{','.join(now)}]"
        raise UserError(where, problem, "all stages of a chain must hold out the same")


def check_frame_size(wanted: int, size: int) -> None:
    """Raises UserError if a face generator is for frames of another size than the data's; both in pixels a side."""
    if wanted != size:
        problem = f"frames of {size} pixels, but the face generator's network.size is {wanted}"
        raise UserError("data.size", problem, f"data.size={wanted}")


def check_face_model(checksum: str, where: str, checkpoint: Checkpoint, data: str) -> None:
    """Raises UserError if a checkpoint was trained in another face model than `data` is in, for the same numbers then
    mean other faces; of one that says nothing of its data, nothing is known.

    checksum: of the data's face model; where: names the checkpoint.
    """
    known = {trained.get("face_model") for trained in checkpoint.provenance.get("data", [])} - {None}
    if checkpoint.kind in IN_A_FACE_MODEL and known and checksum not in known:
        problem = f"was trained in another face model than that of {data}"
        raise UserError(where, problem, "prepare the clips with --face-model, the facemodel.npz that it was trained in")


def check_parent(checkpoint: Checkpoint, where: str, parent: Checkpoint) -> None:
    """Raises UserError if a checkpoint was trained from another export of the kind of `parent` than that one: what it
    learned to hear or to copy then means something else. Nothing is known of one that was exported by hand.

    where: names the checkpoint.
    """
    known = checkpoint.provenance.get("inputs", {}).get(parent.kind)
    if known and known != parent.sha256:
        problem = f"was trained from another {parent.kind} export (SHA-256 {known[:12]}) than {parent.path}"
        raise UserError(
            where, problem, f"give the {parent.kind} export that it was trained from, or train it from this one"
        )
