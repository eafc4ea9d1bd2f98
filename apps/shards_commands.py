"""The commands below `emohead shards`. What they do is in shards.py, which is imported when one of them runs."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import Codec, Json, Number, Out, Workers, examples

shards = typer.Typer(help="Look at prepared data sets.", no_args_is_help=True)
DataSet = Annotated[Path, typer.Argument(help="A prepared data set.")]


@shards.command("info", epilog=examples("emohead shards info data/mine"))
def shards_info(out: DataSet, json: Json = False) -> None:
    """Counts, hours, identities, emotions x levels, sizes, rejected clips."""
    from .shards import info

    info(out, json=json)


@shards.command("verify", epilog=examples("emohead shards verify data/mine --workers 4"))
def shards_verify(out: DataSet, workers: Workers = 2, json: Json = False) -> None:
    """Check every checksum and decode every member."""
    from .shards import verify

    if not verify(out, workers=workers, json=json):
        raise typer.Exit(1)


@shards.command("index", epilog=examples("emohead shards index data/mine"))
def shards_index(out: Annotated[Path, typer.Argument(help="A folder of tars.")]) -> None:
    """Rebuild the indexes of tars."""
    from .shards import index

    index(out)


@shards.command("transcode", epilog=examples("emohead shards transcode data/mine data/small --codec h264 --size 128"))
def shards_transcode(
    source: DataSet,
    out: Out,
    codec: Codec = "mjpeg",
    size: Annotated[Number, typer.Option(min=32, max=1024, help="Pixels a side; default: as they are.")] = None,
    workers: Workers = 2,
) -> None:
    """Write the data set in another codec or size, without tracking again. The same command again resumes."""
    from .shards import transcode

    transcode(source, out, codec=codec, size=size, workers=workers)
