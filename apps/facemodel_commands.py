"""The commands below `emohead facemodel`. What they do is in facemodel.py, which is imported when one of them runs."""

from pathlib import Path
from typing import Annotated

import typer

from ..models.errors import UserError
from .arguments import emotions_of, examples

facemodel = typer.Typer(help="Make, pool and look at face models.", no_args_is_help=True)


@facemodel.command("fit", epilog=examples("emohead facemodel fit data/mead data/hdtf pooled.npz"))
def facemodel_fit(
    files: Annotated[list[Path], typer.Argument(help="Prepared data sets, and last the .npz to write.")],
    holdout_emotions: Annotated[
        str, typer.Option(help="Emotions, with commas between, that it is built without.")
    ] = "",
) -> None:
    """Pool the landmark models of several data sets into one, so that they can be mixed."""
    from .facemodel import fit

    if len(files) < 2:
        raise UserError("facemodel fit", "give one or more data sets, and last the .npz to write")
    fit(files[:-1], files[-1], emotions_of(holdout_emotions))


@facemodel.command("import", epilog=examples("emohead facemodel import BFM_model_front.mat bfm09.npz"))
def facemodel_import(
    source: Annotated[Path, typer.Argument(help="Folder of ICT-FaceKit, or BFM_model_front.mat.")],
    out: Annotated[Path, typer.Argument(help="The .npz to write.")],
) -> None:
    """Make a facemodel.npz of ICT-FaceKit or of the Basel Face Model 2009."""
    from .facemodel import convert

    convert(source, out)


@facemodel.command("info", epilog=examples("emohead facemodel info data/mine/facemodel.npz"))
def facemodel_info(file: Annotated[Path, typer.Argument(help="A facemodel.npz.")]) -> None:
    """Kind, sizes and checksum of a face model."""
    from .facemodel import info

    info(file)


@facemodel.command("arkit", epilog=examples("emohead facemodel arkit data/mine blendshapes/"))
def facemodel_arkit(
    data: Annotated[Path, typer.Argument(help="A data set prepared with --face-model ict.")],
    out: Annotated[Path, typer.Argument(help="Folder for the CSV files.")],
) -> None:
    """Write the expressions of a data set as ARKit blendshapes, a CSV a clip."""
    from .facemodel import arkit

    arkit(data, out)
