"""Checks of `emohead doctor` on the files that a stage reads: checkpoints, weights of other networks, data sets."""

from pathlib import Path
from typing import Any

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.module import DataFacts, TalkingFaceData
from ...datamodules.storage.folder import is_url
from ...models.checkpoint import command
from ...models.emotion import EmotionSpaceConfig
from ...models.errors import UserError
from ...models.face import FaceGeneratorConfig
from ...models.motion import AudioTo3DMMConfig
from ...models.speech_encoder import read_config
from ..config import value_of
from ..emotion import check_towers
from ..inputs import check_frame_size
from ..stage import Stage, Start
from .finding import Finding, refusal
from .tree import given_configs, header_config, parts

NETWORKS = {"emotion": EmotionSpaceConfig, "motion": AudioTo3DMMConfig, "face": FaceGeneratorConfig}


def inputs(stage_type: type[Stage], config: Any) -> list[Finding]:
    """The files that a stage is built on."""
    found = [export(start, config) for start in stage_type.given(config)]
    for key in stage_type.weights:
        found += weights(key, value_of(config, key))
    for key, part in parts(config):
        if isinstance(part, EmotionSpaceConfig):
            found += towers(key, part)
        if isinstance(part, AudioTo3DMMConfig):
            found += speech_encoder(key, part)
    return found


def export(start: Start, config: Any) -> Finding:
    """Whether the file is an export of another stage, and fits the network of that kind, if it is known here."""
    key, path = f"{start.key}=", start.file(config)
    try:
        values = header_config(config, start)
        if start.kind in NETWORKS:
            NETWORKS[start.kind](**values)
    except UserError as error:
        return refusal(key, error, f"{key}FILE.safetensors, the export of `{command(start.kind)}`")
    except OSError as error:
        return Finding(key, "wrong", f"{path}: cannot be read ({error.strerror})", f"{key}FILE that can be read")
    except (TypeError, ValueError) as error:
        problem = f"{path}: does not fit the network of this emohead ({' '.join(str(error).split())[:120]})"
        return Finding(key, "wrong", problem, "export it again")
    return Finding(key, "ok", f"{path}: a checkpoint of that kind (its weights are verified when the run starts)")


def weights(key: str, file: str) -> list[Finding]:
    """A file of pretrained weights, if one is given."""
    if not file:
        return []
    if not Path(file).is_file():
        return [Finding(f"{key}=", "wrong", f"{file}: no such file", f"{key}=FILE, or {key}= for none")]
    return [Finding(f"{key}=", "ok", file)]


def towers(where: str, network: EmotionSpaceConfig) -> list[Finding]:
    """Where the weights of CLIP come from. `where` is the key of the network."""
    key, weights = f"{where}.pretrained=", network.pretrained
    try:
        check_towers(network, where)
    except UserError as error:
        return [refusal(key, error)]
    if not weights or Path(weights).is_file():
        return [Finding(key, "ok", weights or "towers start from random weights")]
    if "/" in weights or "." in weights:
        return [Finding(key, "wrong", f"{weights}: no such file", f"{key}FILE, weights of that model")]
    problem = f"{weights} is a tag of open_clip: its weights are downloaded, which nodes without a network cannot"
    return [Finding(key, "warning", problem, f"{key}FILE")]


def speech_encoder(where: str, network: AudioTo3DMMConfig) -> list[Finding]:
    """The pretrained encoder that replaces log-mel, if any. `where` is the key of the network."""
    key, folder = f"{where}.speech_encoder=", network.speech_encoder
    if not folder:
        return []
    try:
        kind = read_config(folder)["model_type"]
    except UserError as error:
        return [refusal(key, error, f"{key}FOLDER, or empty for log-mel")]
    return [Finding(key, "ok", f"{folder}: a {kind} model (weights are read when the run starts)")]


# ---------------------------------------------------------------------------------------------- data


def data(stage_type: type[Stage], config: Any) -> tuple[list[Finding], DataFacts | None]:
    """Whether the data sets can be read and fit together; also their facts if they do."""
    try:
        module = TalkingFaceData(stage_type.name, config.data, seed=config.seed)
        facts = module.facts
    except (UserError, OSError) as error:
        return [refusal("data", error, "'data.shards=[FOLDER]', a folder that `emohead prepare` wrote")], None
    found = [Finding("data", "ok", amount(module, config))]
    if facts.num_train < config.data.batch_size:
        problem = f"{facts.num_train} clips for training: a batch of {config.data.batch_size} holds some of them twice"
        found.append(Finding("data", "warning", problem, f"data.batch_size={facts.num_train} or less, or more data"))
    if not facts.num_val:
        others = sorted({s for reader in module.readers for s in reader.manifest.splits} - {*config.data.train_splits})
        remedy = f"data.val_splits=[{','.join(others)}]" if others else "prepare data with a split for it"
        problem = (
            f"no clips in data.val_splits={config.data.val_splits}: nothing is validated, no checkpoint is the best"
        )
        found.append(Finding("data", "warning", problem, remedy))
    for reader in module.readers:
        found += first_shard(reader)
        found += enlarged(reader, config.data.size)
    return found + frame_size(stage_type, config, module.size), facts


def amount(module: TalkingFaceData, config: Any) -> str:
    c, facts = config.trainer, module.facts
    workers = c.nodes * c.devices * max(1, config.data.num_workers)
    shards = len(module.train_source.shards)
    clips = f"clips to train on: {facts.num_train} (shards: {shards}), to validate: {facts.num_val}"
    clips += f", without sound and left out: {facts.num_silent}" if facts.num_silent else ""
    return f"{clips}. Workers: {workers}; they share clips, not shards, and may be more than these"


def first_shard(reader: ClipReader) -> list[Finding]:
    """Whether the tar that the manifest names first is there, with all its bytes."""
    if not reader.manifest.shards:
        return []
    shard = reader.manifest.shards[0]
    address = reader.files.address(shard.name)
    try:
        file = reader.files.open(shard.name, shard.content, shard.bytes)
        held = Path(address).stat().st_size if not is_url(address) else shard.bytes
        whole = held == shard.bytes and len(file.read(shard.bytes - 1, 1)) == 1
    except (OSError, UserError) as error:
        return [Finding("data", "wrong", f"{address}: {' '.join(str(error).split())}", "copy the whole data set there")]
    if not whole:
        problem = f"{address}: has {held} bytes, its manifest says {shard.bytes}"
        return [Finding("data", "wrong", problem, "copy the data set again, or `emohead shards index` it")]
    return []


def enlarged(reader: ClipReader, size: int) -> list[Finding]:
    stored = reader.manifest.size
    if size <= stored:
        return []
    problem = f"data.size={size}: {reader.folder} holds frames of {stored} pixels, which are enlarged"
    return [Finding("frame size", "warning", problem, f"data.size={stored}, or prepare it with --size {size}")]


def frame_size(stage_type: type[Stage], config: Any, size: int) -> list[Finding]:
    """A face generator takes frames of one size only."""
    try:
        wanted = stage_type.frame_size(config, given_configs(stage_type, config))
    except (UserError, OSError, KeyError):  # said of the export
        return []
    if wanted is None:
        return []
    try:
        check_frame_size(wanted, size)
    except UserError as error:
        return [refusal("frame size", error)]
    return []
