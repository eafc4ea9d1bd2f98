"""The keys of a configuration: type, default, range and one line of help each.

The line of help is the comment behind the field in the source, `lr: float = number(3e-4, above=0)  # at its height`:
whoever reads the dataclass and whoever asks the command line read the same words.
"""

import ast
import difflib
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..models.errors import UserError
from ..models.ranges import range_of


@dataclass(frozen=True)
class Key:
    name: str  # with dots
    type: str
    default: str  # as it is typed behind `=`
    range: str  # empty: not a number
    help: str


def keys_of(schema: type) -> list[Key]:
    """The keys of a configuration's dataclass and of those within it, in their order."""
    return list(_walk(schema(), ""))


def keys_below(keys: list[Key], parts: list[str]) -> list[Key]:
    """The keys that are one of `parts` or below it; all, if there are none. Raises UserError for an unknown part."""
    names = [key.name for key in keys]
    known = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    for part in parts:
        if part not in known:
            near = difflib.get_close_matches(part, sorted(known), n=1, cutoff=0.0)[0]
            raise UserError(f"--keys {part}", "no such part of the configuration", f"did you mean '{near}'?")
    return [key for key in keys if not parts or any(f"{key.name}.".startswith(f"{part}.") for part in parts)]


def _walk(config: Any, prefix: str) -> Iterator[Key]:
    hints, comments = get_type_hints(type(config)), comments_of(type(config))
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from _walk(value, f"{name}.")
        else:
            hint = _hint(hints[field.name])
            yield Key(name, hint, _typed(value), _range(field, hint), comments.get(field.name, ""))


def _hint(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    return str(hint).replace("typing.", "") if get_args(hint) else hint.__name__


def _range(field: Field, hint: str) -> str:
    numeric = hint in ("int", "float", "list[int]", "list[float]")
    return str(range_of(field)).removeprefix("a number ") if numeric else ""


def _typed(value: Any) -> str:
    """A value as it stands in an override: true, 0.1, [a,b]."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def comments_of(schema: type) -> dict[str, str]:
    """The comment behind each field of a dataclass and of those that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if is_dataclass(base):
            found |= _comments(textwrap.dedent(inspect.getsource(base)))
    return found


def _comments(source: str) -> dict[str, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    return {
        node.target.id: by_line[node.end_lineno]
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno in by_line
    }
