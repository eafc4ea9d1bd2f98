"""The commands below `emohead prepare`. What they do is in prepare.py, which is imported when one of them runs."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..models.ranges import MAX_SEED
from .arguments import Codec, File, Out, Word, Words, Workers, examples

prepare = typer.Typer(help="Turn clips into shards of WebDataset tars.", no_args_is_help=True)


@dataclass(frozen=True)
class PrepareOptions:
    """The options that `folder`, `mead` and `hdtf` have in common, as they are typed."""

    size: Annotated[int, typer.Option(min=32, max=1024, help="Pixels a side of the face crop.")] = 256
    codec: Codec = "mjpeg"
    workers: Workers = 1
    only: Annotated[
        Word,
        typer.Option("--pass", help="track, fit or pack: this pass only, all of them in this order make a data set."),
    ] = None
    part: Annotated[str, typer.Option(help="I/N: the I-th of N parts of a pass, each in a process of its own.")] = "1/1"
    face_model: Annotated[
        str, typer.Option(help="landmark (built from the clips), a facemodel.npz, ict or a folder of ICT-FaceKit.")
    ] = "landmark"
    coefficients: Annotated[
        File,
        typer.Option(help="Folder of Deep3DFaceRecon's .mat files to take instead of a fit; needs a bfm09 face model."),
    ] = None
    silent: Annotated[
        str,
        typer.Option(help="keep or reject clips without sound: of the stages only `face` reads them."),
    ] = "keep"
    holdout_emotions: Annotated[
        str,
        typer.Option(
            help="Emotions, with commas between, that the face model is built without, as training holds them out."
        ),
    ] = ""
    gate: Annotated[
        Words,
        typer.Option(help="name=value: a threshold for clips, such as max_yaw=75; repeatable."),
    ] = None
    export_arkit: Annotated[
        bool, typer.Option(help="Also write ARKit blendshapes as CSV; needs the ict face model.")
    ] = False


USUAL = PrepareOptions()
LARGE = PrepareOptions(size=512)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one parameter for each field of PrepareOptions in place of `options`, as typer needs them."""
    parameters = dict(inspect.signature(command).parameters)
    usual = parameters.pop("options").default
    for field in fields(PrepareOptions):
        parameters[field.name] = inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(usual, field.name),
            annotation=field.type,
        )

    @functools.wraps(command)
    def run(**typed: Any) -> None:
        options = PrepareOptions(**{field.name: typed.pop(field.name) for field in fields(PrepareOptions)})
        command(**typed, options=options)

    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return run


@prepare.command("folder", epilog=examples("emohead prepare folder clips/ data/mine --size 256 --codec mjpeg"))
@with_options
def prepare_folder(
    source: Annotated[Path, typer.Argument(help="Folder of videos, searched through; labels.csv in it is read.")],
    out: Out,
    *,
    options: PrepareOptions = USUAL,
) -> None:
    """Any folder of talking-face videos: track, fit the face model, crop, pack. The same command again resumes."""
    from .prepare import folder

    folder(source, out, options)


@prepare.command(
    "mead",
    epilog=examples(
        "emohead prepare mead MEAD/ data/mead --size 512 --workers 16",
        "emohead prepare mead MEAD/ data/mead --size 512 --pass track --part 3/40",
    ),
)
@with_options
def prepare_mead(
    source: Annotated[Path, typer.Argument(help="MEAD's folder, with one folder an actor.")],
    out: Out,
    *,
    views: Annotated[str, typer.Option(help="Views, with commas between: front,left_30,...")] = "front",
    split: Annotated[str, typer.Option(help="identity, official or random.")] = "identity",
    options: PrepareOptions = USUAL,
) -> None:
    """MEAD: emotions at three levels, several views."""
    from .prepare import mead

    mead(source, out, options, views=views, split=split)


@prepare.command("hdtf", epilog=examples("emohead prepare hdtf HDTF/ data/hdtf --size 512 --annotations HDTF_dataset/"))
@with_options
def prepare_hdtf(
    source: Annotated[Path, typer.Argument(help="Folder of the downloaded videos.")],
    out: Out,
    *,
    annotations: Annotated[
        File,
        typer.Option(help="Folder of the data set's text files, where they do not lie with the videos."),
    ] = None,
    options: PrepareOptions = LARGE,
) -> None:
    """HDTF: intervals of YouTube videos."""
    from .prepare import hdtf

    hdtf(source, out, options, annotations=annotations)


@prepare.command("synthetic", epilog=examples("emohead prepare synthetic data/synthetic --identities 20 --clips 480"))
def prepare_synthetic(
    out: Out,
    identities: Annotated[int, typer.Option(min=3, help="People.")] = 20,
    clips: Annotated[int, typer.Option(min=3, help="Clips in all.")] = 480,
    acted: Annotated[
        float, typer.Option(min=0, max=1, help="Share of clips with facial actions in place of an emotion.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of people and clips.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Pixels a side.")] = 128,
    codec: Codec = "mjpeg",
    workers: Workers = 2,
) -> None:
    """A corpus of drawn faces with synthetic voices: no download, no tracker, everything known exactly."""
    from .prepare import synthetic

    synthetic(out, identities=identities, clips=clips, acted=acted, seed=seed, size=size, codec=codec, workers=workers)
