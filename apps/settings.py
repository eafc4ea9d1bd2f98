"""`emohead train STAGE --print-config` and `--keys`: the configuration of a run, and all that can be set in it."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from ..trainers.all_stages import find_stage
from ..trainers.config import as_yaml, load_config
from ..trainers.keys import Key, keys_below, keys_of
from .tables import print_table


def show_config(stage: str, files: list[Path], overrides: list[str]) -> None:
    """Print the configuration after all files and overrides; as a file it gives the same run."""
    print(as_yaml(load_config(find_stage(stage).config_type, files, overrides)), end="")


def show_keys(stage: str, parts: list[str]) -> None:
    """Print the keys of a stage, or those below some parts of its configuration, such as network or trainer."""
    print_table(as_table(keys_below(keys_of(find_stage(stage).config_type), parts)))


def as_table(keys: list[Key]) -> Table:
    table = Table()
    for column in ("key", "type", "default", "range", "what it is"):
        table.add_column(column, overflow="fold")
    for key in keys:
        table.add_row(*map(Text, (key.name, key.type, key.default, key.range, key.help)))
    return table
