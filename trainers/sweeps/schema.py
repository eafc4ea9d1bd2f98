"""Whether a sweep file is one that W&B takes: held against schema.json, with the nearest known name in each error."""

import json
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from ...models.errors import UserError

EARLY = "early_terminate: {type: hyperband, min_iter: 1}"


@cache
def schema() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "schema.json").read_text())


def check_schema(file: Path, content: dict[str, Any]) -> None:
    """Refuse what W&B would not take, with the nearest that it does."""
    for name in content.get("parameters") or {}:
        if not isinstance(name, str):
            raise UserError(file, f"parameters: YAML reads the name {name!r} as no text", "put it in quotes")
    errors = list(jsonschema.Draft202012Validator(schema()).iter_errors(content))
    if not errors:
        return
    # What is not known explains what is lacking.
    error = min(errors, key=lambda error: (len(error.absolute_path), error.validator != "additionalProperties"))
    where = ".".join(map(str, error.absolute_path))
    told = f"{where}: " if where else ""
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = next(str(key) for key in error.instance if key not in known)
        near = get_close_matches(unknown, known, n=1, cutoff=0.0)[0]
        dotted = f"{where}." if where else ""
        raise UserError(file, f"unknown key '{dotted}{unknown}'", f"did you mean '{dotted}{near}'?")
    if error.validator == "enum":
        choices = [str(choice) for choice in error.validator_value]
        near = get_close_matches(str(error.instance), choices, n=1, cutoff=0.0)[0]
        raise UserError(file, f"{told}{error.instance!r} is none of {', '.join(choices)}", f"did you mean {near}?")
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        raise UserError(file, f"{told}lacks the key '{missing}'", "")
    if error.validator == "type" and _is_number(error.instance):
        raise UserError(
            file,
            f"{told}'{error.instance}' is text to YAML, not a number",
            f"write {_as_yaml(error.instance)}",
        )
    if error.validator == "anyOf":
        raise UserError(file, f"{told}lacks min_iter or max_iter", EARLY)
    raise UserError(file, f"{told}{error.message[:200]}")


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _as_yaml(text: str) -> str:
    """1e-4 as YAML 1.1 reads it as a number: 1.0e-4."""
    mantissa, e, exponent = text.lower().partition("e")
    mantissa += "" if "." in mantissa else ".0"
    return mantissa + (f"e{exponent if exponent[:1] in '+-' else '+' + exponent}" if e else "")
