"""The parts of a stage's configuration, and the configurations of the exports that it names; no weights are loaded."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass
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
    bare = deepcopy(config)
    for key, part in list(parts(bare)):
        if isinstance(part, EmotionSpaceConfig):
            part.pretrained = ""
        elif isinstance(part, AudioTo3DMMConfig):
            *above, name = key.split(".")
            holder = bare
            for attribute in above:
                holder = getattr(holder, attribute)
            setattr(holder, name, part.without_folder())
    return bare


def header_config(config: Any, start: Start) -> dict[str, Any]:
    """The configuration of the network in an export, from the header of its file."""
    return json.loads(read_header(start.file(config), kind=start.kind)["config"])


def given_configs(stage_type: type[Stage], config: Any) -> dict[str, Any]:
    """The configuration of each export that a stage starts from, by kind."""
    return {start.kind: header_config(config, start) for start in stage_type.given(config)}
