"""Configuration: a dataclass's defaults < YAML files < `a.b=c` on the command line. Unknown keys are refused."""

import difflib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..models.errors import UserError
from ..models.files import written_aside
from ..models.timing import MOTION_WINDOW

T = TypeVar("T")
CONFIGS = Path(__file__).parent.parent / "configs"

# Settings that the config.yaml of an earlier run may name, each with the one value that training ever used.
RETIRED = {("network", "window"): MOTION_WINDOW, ("network", "face", "window"): MOTION_WINDOW}


def load_config(schema: type[T], files: list[Path], overrides: list[str]) -> T:
    """Build a `schema` from YAML files and `key=value` overrides, later ones winning.

    Raises:
        UserError: a file that is missing or no YAML, an unknown key (with the nearest valid one), a value of a wrong
        type.
    """
    merged = OmegaConf.structured(schema)
    for file in files:
        merged = _merge(merged, _read_yaml(find_config(file)), schema, where=str(file))
    for override in overrides:
        merged = _merge(merged, _read_override(override), schema, where=f"'{override}'")
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def value_of(config: Any, key: str) -> Any:
    """The value of a key with dots, such as perceptual.emotion."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


def save_config(config: Any, path: Path) -> None:
    """Write the resolved configuration; feeding it back reproduces the run."""
    with written_aside(path) as partial:
        partial.write_text(as_yaml(config))


def as_yaml(config: Any) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def as_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain containers (what checkpoints and W&B can store)."""
    return OmegaConf.to_container(OmegaConf.structured(config), resolve=True)  # type: ignore[return-value]


def find_config(file: Path) -> Path:
    """A path, or the bare name of a shipped configuration such as `emotion-debug`."""
    return find_shipped(file, CONFIGS, "config file")


def find_shipped(file: Path, folder: Path, what: str) -> Path:
    """A path, or the bare name of a YAML file of that folder. Raises UserError if it is neither."""
    if file.is_file():
        return file
    if (folder / f"{file}.yaml").is_file():
        return folder / f"{file}.yaml"
    names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise UserError(file, f"no such {what}", f"give a path or one of the shipped names: {names}")


def _read_yaml(file: Path) -> DictConfig:
    try:
        content = OmegaConf.load(file)
    except (YAMLError, OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserError(file, f"not readable as YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(content, DictConfig):
        raise UserError(file, "wanted is a mapping of keys to values")
    for (*parents, key), value in RETIRED.items():
        part = OmegaConf.select(content, ".".join(parents))
        if isinstance(part, DictConfig) and part.get(key) == value:
            del part[key]
    return content


def _read_override(override: str) -> DictConfig:
    key, equals, _ = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"'{override}'", "wanted is key=value, such as optimizer.lr=1e-4")
    try:
        content = OmegaConf.from_dotlist([override])
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"'{override}'", f"{' '.join(str(error).split())[:200]}") from None
    if _holds_none(OmegaConf.to_container(content)):
        problem = "None is Python's word for no value, and would be taken for a text (a sweep writes null so)"
        raise UserError(f"'{override}'", problem, "leave the key out, which keeps its default")
    return content


def _holds_none(content: Any) -> bool:
    if isinstance(content, dict | list):
        return any(map(_holds_none, content.values() if isinstance(content, dict) else content))
    return content == "None"


def _merge(config: DictConfig, addition: DictConfig, schema: type, *, where: str) -> DictConfig:
    content: Any = OmegaConf.to_container(addition)
    _check_keys(content, schema, prefix="", where=where)
    addition = OmegaConf.create(_whole_numbers(content, schema))
    try:
        return OmegaConf.merge(config, addition)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise UserError(where, f"{key}: {str(error).splitlines()[0]}") from None


def _whole_numbers(content: dict[str, Any], schema: type) -> dict[str, Any]:
    """The content with whole numbers as people write them: YAML takes 1e5 for a fraction, and auto is -1."""
    hints = get_type_hints(schema)
    found = {}
    for key, value in content.items():
        if is_dataclass(hints[key]) and isinstance(value, dict):
            value = _whole_numbers(value, hints[key])  # type: ignore[arg-type]
        elif hints[key] is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        elif hints[key] is int and value == "auto":
            value = -1
        found[key] = value
    return found


def _check_keys(content: Any, schema: type, *, prefix: str, where: str) -> None:
    """Refuse keys that the dataclass does not have; the error names the nearest one that it has."""
    hints = get_type_hints(schema)
    valid = [field.name for field in fields(schema)]  # type: ignore[arg-type]
    for key, value in content.items():
        if key not in valid:
            nearest = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.0)
            listing = f"did you mean '{prefix}{nearest[0]}'?" if nearest else f"valid are: {', '.join(valid)}"
            raise UserError(where, f"unknown key '{prefix}{key}'", listing)
        if is_dataclass(hints[key]) and isinstance(value, dict):
            _check_keys(value, hints[key], prefix=f"{prefix}{key}.", where=where)  # type: ignore[arg-type]
