"""`emohead facemodel`: pool, convert and look at face models."""

from collections.abc import Sequence
from pathlib import Path

from ..models.errors import UserError
from ..models.face_model import FaceModel


def fit(shards: Sequence[Path], out: Path, holdout_emotions: Sequence[str] = ()) -> None:
    """Pool the `landmark` models of several prepared data sets into one file; clips of some emotions are left out."""
    from ..datamodules.face_models.pool import pool_face_models

    _check_out(out)
    pool_face_models(shards, holdout_emotions=holdout_emotions).save(out)
    info(out)
    print(f"now prepare the data sets again with --face-model {out}")


def convert(source: Path, out: Path) -> None:
    """Make a facemodel.npz of an ICT-FaceKit folder or of BFM_model_front.mat."""
    from ..models.bfm import load_bfm09
    from ..models.ict import load_ict

    _check_out(out)
    if source.suffix == ".mat":
        load_bfm09(source).save(out)
    else:
        load_ict(source).save(out)
    info(out)


def arkit(shards: Path, out: Path) -> None:
    """Write the motion of an `ict` data set as Live Link Face CSV, a file a clip."""
    from ..datamodules.face_models.arkit import export_arkit

    print(f"{out}: {len(export_arkit(shards, out))} clips")


def info(file: Path) -> None:
    """Print what a face model is."""
    model = FaceModel.load(file)
    axes = f"{model.num_identity} identity and {model.num_expression} expression axes"
    print(f"{file}: {model.kind}, {len(model.mean)} vertices, {axes}")
    print(f"checksum {model.checksum()}")


def _check_out(out: Path) -> None:
    """Refuse an output path that cannot be written, before hours of work."""
    if out.suffix != ".npz":
        raise UserError(out, "the face model to write must end in .npz (the data sets come first)")
    if not out.absolute().parent.is_dir():
        raise UserError(out, f"no folder {out.absolute().parent}", "make it first")
