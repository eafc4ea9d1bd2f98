"""Arguments and options that several commands take, how a shell completes them, and the examples below their help."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
import typer.core

# Options that may be left out; typer reads these types at run time and knows no other spelling.
Word = Optional[str]  # noqa: UP045
Words = Optional[list[str]]  # noqa: UP045
Number = Optional[int]  # noqa: UP045
File = Optional[Path]  # noqa: UP045
Files = Optional[list[Path]]  # noqa: UP045

TRACKED_CLIPS = 24  # of an evaluation: minutes on a CPU

CONFIGS = Path(__file__).parent.parent / "configs"
CHAIN = ("emotion", "motion", "face", "distill")  # the order in which stages are listed, before any others
# A stage ships a debug configuration, so its name is known here without any of its code.
SHIPPED = {path.stem.removesuffix("-debug") for path in CONFIGS.glob("*-debug.yaml")}
STAGE_NAMES = [*CHAIN, *sorted(SHIPPED - set(CHAIN))]


class WithDefault(typer.core.TyperGroup):
    """A group with a command that is meant where none is named: `emohead runs DIR` is `emohead runs list DIR`."""

    default = "list"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def complete_stage(incomplete: str) -> list[str]:
    return [name for name in STAGE_NAMES if name.startswith(incomplete)]


def complete_config(ctx: typer.Context, incomplete: str) -> list[str]:
    """Shipped names, those of the stage alone if one is given, then YAML files and folders."""
    given = [ctx.params.get("stage"), *ctx.args]  # in the latter, while an option still lacks its value
    stage = next((word for word in given if word in STAGE_NAMES), "")
    names = [path.stem for path in CONFIGS.glob(f"{stage}*.yaml")]
    return [*sorted(name for name in names if name.startswith(incomplete)), *yaml_files(incomplete)]


def yaml_files(incomplete: str) -> Iterator[str]:
    folder, _, start = incomplete.rpartition("/")
    above = f"{folder}/" if "/" in incomplete else ""
    for path in sorted(Path(above or ".").glob("*")):
        if path.name.startswith(start) and not path.name.startswith("."):
            if path.is_dir():
                yield f"{above}{path.name}/"
            elif path.suffix in (".yaml", ".yml"):
                yield f"{above}{path.name}"


Codec = Annotated[str, typer.Option(help="mjpeg: fast random frames; h264: a fifth of the disk.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Out = Annotated[Path, typer.Argument(help="Folder for the data set.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]
StageName = Annotated[
    str,
    typer.Argument(help=f"One of {', '.join(STAGE_NAMES)}; see `emohead stages`.", autocompletion=complete_stage),
]
Configs = Annotated[
    Files,
    typer.Option(
        "--config",
        "-c",
        help="YAML file or shipped name, such as emotion-debug; repeatable, later ones win.",
        autocompletion=complete_config,
    ),
]


def emotions_of(typed: str) -> list[str]:
    """Emotions with commas between; raises UserError for one that is none."""
    from ..datamodules.sample import EMOTIONS  # torch comes along
    from ..models.errors import UserError

    names = [name.strip() for name in typed.split(",") if name.strip()]
    for name in names:
        if name not in EMOTIONS:
            raise UserError(f"--holdout-emotions {name}", f"wanted are some of {', '.join(EMOTIONS)}")
    return names


def examples(*commands: str) -> str:
    """The end of a help text. What a shell would expand is to be in quotes: `'data.shards=[data/mine]'`."""
    return literal("Examples:\n\n" + "\n\n".join(commands))


def literal(text: str) -> str:
    """Text as it is: help is read as rich's markup, in which [data/mine] would be a style."""
    return re.sub(r"\[(?=[a-z#/@][^\[]*\])", r"\\[", text)
