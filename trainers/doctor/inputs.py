"""What `emohead doctor` looks at of what a stage reads: checkpoints, weights of other networks, data sets."""

import json
from pathlib import Path
from typing import Any

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.module import DataFacts, TalkingFaceData
from ...datamodules.storage.folder import is_url
from ...models.checkpoint import read_header
from ...models.emotion import EmotionSpaceConfig
from ...models.errors import UserError
from ...models.face import FaceGeneratorConfig
from ...models.motion import AudioTo3DMMConfig
from ...models.speech_encoder import read_config
from .disk import teacher
from .finding import Finding, refusal

NETWORKS = {"emotion": EmotionSpaceConfig, "motion": AudioTo3DMMConfig, "face": FaceGeneratorConfig}


def inputs(name: str, config: Any) -> list[Finding]:
    """The files that a stage is built on."""
    found = []
    for kind in NETWORKS:
        if hasattr(config, kind):
            found.append(checkpoint(kind, getattr(config, kind), kind))
    if name == "face":
        found += perceptual(config.perceptual.vgg, config.perceptual.emotion)
    if name == "emotion":
        found += towers(config.network)
    if name == "motion":
        found += speech_encoder("network", config.network)
    if name == "distill":
        found += speech_encoder("network.motion", config.network.motion)
    return found


def checkpoint(key: str, path: str, kind: str) -> Finding:
    try:
        NETWORKS[kind](**json.loads(read_header(path, kind=kind)["config"]))
    except UserError as error:
        return refusal(f"{key}=", error, f"{key}=FILE.safetensors, the export of `emohead train {kind}`")
    except OSError as error:
        return Finding(f"{key}=", "wrong", f"{path}: cannot be read ({error.strerror})", f"{key}=FILE that can be read")
    except (TypeError, ValueError) as error:
        problem = f"{path}: does not fit the network of this emohead ({' '.join(str(error).split())[:120]})"
        return Finding(f"{key}=", "wrong", problem, "export it again")
    return Finding(f"{key}=", "ok", f"{path}: a checkpoint of that kind (its weights are verified when the run starts)")


def perceptual(vgg: str, emotion: str) -> list[Finding]:
    """The frozen network of the perceptual loss: VGG before the emotion space."""
    if vgg and not Path(vgg).is_file():
        remedy = "perceptual.vgg=FILE, a state dict of torchvision's vgg19, or perceptual.vgg="
        return [Finding("perceptual.vgg=", "wrong", f"{vgg}: no such file", remedy)]
    if vgg:
        return [Finding("perceptual.vgg=", "ok", vgg)]
    return [checkpoint("perceptual.emotion", emotion, "emotion")] if emotion else []


def towers(network: EmotionSpaceConfig) -> list[Finding]:
    """Where the weights of CLIP come from."""
    key, weights = "network.pretrained=", network.pretrained
    if not weights and network.trainable == "adapters":
        problem = "no weights for the towers, which network.trainable=adapters leaves as they are: random"
        return [Finding(key, "warning", problem, "network.pretrained=FILE, or network.trainable=all")]
    if not weights or Path(weights).is_file():
        return [Finding(key, "ok", weights or "towers start from random weights")]
    if "/" in weights or "." in weights:
        return [Finding(key, "wrong", f"{weights}: no such file", "network.pretrained=FILE, weights of that model")]
    problem = f"{weights} is a tag of open_clip: its weights are downloaded, which nodes without a network cannot"
    return [Finding(key, "warning", problem, "network.pretrained=FILE")]


def speech_encoder(where: str, network: AudioTo3DMMConfig) -> list[Finding]:
    """The pretrained encoder that is heard instead of log-mel, if any; where: the key of the network."""
    key, folder = f"{where}.speech_encoder=", network.speech_encoder
    if not folder:
        return []
    try:
        kind = read_config(folder)["model_type"]
    except UserError as error:
        return [refusal(key, error, f"{key}FOLDER, or empty for log-mel")]
    return [Finding(key, "ok", f"{folder}: a {kind} model (weights are read when the run starts)")]


# ---------------------------------------------------------------------------------------------- data


def data(name: str, config: Any) -> tuple[list[Finding], DataFacts | None]:
    """Whether the data sets can be read and fit together; their facts where they do."""
    try:
        module = TalkingFaceData(name, config.data, seed=config.seed)
        facts = module.facts
    except (UserError, OSError) as error:
        return [refusal("data", error, "data.shards=[FOLDER], a folder that `emohead prepare` wrote")], None
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
    return found + frame_size(name, config, module.size), facts


def amount(module: TalkingFaceData, config: Any) -> str:
    c, facts = config.trainer, module.facts
    workers = c.nodes * c.devices * max(1, config.data.num_workers)
    shards = len(module.train_source.shards)
    clips = f"clips to train on: {facts.num_train} (shards: {shards}), to validate: {facts.num_val}"
    return f"{clips}. Workers: {workers}; they share clips, not shards, and may be more than these"


def first_shard(reader: ClipReader) -> list[Finding]:
    """Whether the tar that the manifest names first is there, with all its bytes."""
    if not reader.manifest.shards:
        return []
    shard = reader.manifest.shards[0]
    address = reader.files.address(shard.name)
    try:
        file = reader.files.open(shard.name, shard.sha256)
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


def frame_size(name: str, config: Any, size: int) -> list[Finding]:
    """The face generator takes frames of one size only."""
    try:
        wanted = (
            config.network.size if name == "face" else teacher("face", config)["size"] if name == "distill" else size
        )
    except (UserError, KeyError):  # said of face=
        return []
    if wanted == size:
        return []
    whose = "network.size" if name == "face" else "the face stage's network.size"
    problem = f"frames of {size} pixels, but {whose} is {wanted}"
    return [Finding("frame size", "wrong", problem, f"data.size={wanted}")]
