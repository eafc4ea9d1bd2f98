"""The files of W&B that a run leaves on this disk, read back: which of its rows are safe there.

W&B writes them in blocks, as LevelDB writes its log: https://github.com/google/leveldb/blob/main/doc/log_format.md.
Each record is a message of `wandb.proto`. W&B's own reader of them is not part of its Python any more.
"""

import json
import shlex
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = 7  # bytes: of the file, and of each piece of a record
BLOCK = 32768
FULL, LAST = 1, 4  # kinds of pieces with which a record ends
OWN_SYNC = (0, 30)  # the version of W&B from which `wandb sync` goes on with a run that is there already


def records(path: Path) -> Iterator[Any]:
    """The records of a `run-ID.wandb`, up to one that was cut off or damaged: a process may have died over it."""
    from wandb.proto import wandb_internal_pb2

    proto: Any = wandb_internal_pb2  # made at run time, so a type checker sees nothing in it
    content, position, pieces = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(content):
        left = BLOCK - position % BLOCK
        checksum, length, kind = struct.unpack_from("<IHB", content, position)
        if left < HEADER or kind == 0:  # the rest of a block
            position, pieces = position + left, b""
            continue
        piece = content[position + HEADER : position + HEADER + length]
        if len(piece) < length or zlib.crc32(bytes([kind]) + piece) != checksum:
            return
        position, pieces = position + HEADER + length, pieces + piece
        if kind in (FULL, LAST):
            record = proto.Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def written(folder: Path) -> dict[str, int]:
    """The last step of each name in the rows of one W&B folder; {} if there are none."""
    found: dict[str, int] = {}
    for path in folder.glob("run-*.wandb"):
        for record in records(path):
            row = {key_of(item): item.value_json for item in record.history.item}
            step = int(json.loads(row.get("step", "-1")))
            found |= {name: max(step, found.get(name, -1)) for name in row if "/" in name}
    return found


def key_of(item: Any) -> str:
    """The name of an entry of a row, a summary or a configuration."""
    return item.nested_key[0] if item.nested_key else item.key


def folders(parent: Path, run_id: str) -> list[Path]:
    """The offline folders of a W&B run, the oldest first."""
    return sorted(parent.glob(f"offline-run-*-{run_id}"))


def last_folder(sent_file: Path, stored: dict[str, Any]) -> Path | None:
    """The folder that the last leg wrote, also if the run folder was moved or copied since; None if no leg says so."""
    if "folder" not in stored:
        return None
    folder = Path(stored["folder"])
    return folder if folder.is_dir() else sent_file.parent / folder.name


def unsent(run: Path) -> list[Path]:
    """The offline folders of a run that were not sent to W&B yet."""
    id_file, sent_file = run / "wandb" / "id", run / "wandb" / "sent.json"
    if not id_file.is_file():
        return []
    stored = json.loads(sent_file.read_text()) if sent_file.is_file() else {}
    last = last_folder(sent_file, stored)
    parent = last.parent if last else run / "wandb"
    return [folder for folder in folders(parent, id_file.read_text().strip()) if not synced(folder)]


def synced(folder: Path) -> bool:
    return any(folder.glob("*.wandb.synced"))


def sync_command(parent: Path, run_id: str, version: str) -> str:
    """The command that sends all offline folders of a run as one, for this version of W&B."""
    rewritten = tuple(int(part) for part in version.split(".")[:2]) >= OWN_SYNC
    return f"wandb sync {'' if rewritten else '--append '}{shlex.quote(str(parent))}/offline-run-*-{run_id}"
