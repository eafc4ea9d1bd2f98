"""The parts of a stage's configuration, and the configurations of the exports that it names; no weights are loaded."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ...models.checkpoint import read_header
from ...models.emotion import EmotionSpaceConfig
from ...models.motion import AudioTo3DMMConfig
from ..stage import Stage, Start


def parts(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every dataclass within a configuration and its key, such as ("network.motion", AudioTo3DMMConfig(...))."""
    for field in fields(config):
        value, name = getattr(config, field.name), f"{key}.{field.name}".lstrip(".")
        if is_dataclass(value):
            yield name, value
            yield from parts(value, name)


def without_files(config: Any) -> Any:
    """The same configuration, changed so that its networks are built without reading pretrained weights."""
    changed: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, EmotionSpaceConfig):
            changed[field.name] = replace(value, pretrained="")
        elif isinstance(value, AudioTo3DMMConfig):
            changed[field.name] = value.without_folder()
        elif is_dataclass(value):
            changed[field.name] = without_files(value)
    return replace(config, **changed)


def header_config(config: Any, start: Start) -> dict[str, Any]:
    """The configuration of the network in an export, from the header of its file."""
    return json.loads(read_header(start.file(config), kind=start.kind)["config"])


def given_configs(stage_type: type[Stage], config: Any) -> dict[str, Any]:
    """The configuration of each export that a stage starts from, by kind."""
    return {start.kind: header_config(config, start) for start in stage_type.given(config)}
