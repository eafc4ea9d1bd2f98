"""Tables on a terminal and in a log."""

from rich.console import Console
from rich.table import Table

LONGEST = 10_000  # characters of a line in a log


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal; in a log a line stays a line, so that it can be copied."""
    console = Console()
    if not console.is_terminal:
        unlimited = console.options.update(width=LONGEST)
        console.width = max(console.width, console.measure(table, options=unlimited).maximum)
    console.print(table)
