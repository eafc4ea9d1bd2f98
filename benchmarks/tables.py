"""Tables in docs/results.md, each between markers of its own."""

from pathlib import Path

RESULTS = Path(__file__).parent.parent / "docs" / "results.md"


def put_into_results(name: str, table: str) -> None:
    """Replace what stands between <!-- NAME:start --> and <!-- NAME:end -->."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    text = RESULTS.read_text()
    RESULTS.write_text(f"{text.split(start)[0]}{start}\n{table}\n{end}{text.split(end)[1]}")
