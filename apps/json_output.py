"""`--json`: one document on stdout and nothing else there, for programs that read it."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """While the document is made, whatever libraries print goes to stderr, if JSON is `wanted`."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def print_json(document: Any) -> None:
    """Print it, with null for numbers that JSON does not have."""
    print(json.dumps(finite(document), indent=1, allow_nan=False), flush=True)


def finite(content: Any) -> Any:
    """The same containers with None in place of numbers that are not finite."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
