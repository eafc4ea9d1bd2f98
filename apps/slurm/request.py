"""What `emohead slurm pipeline` is asked for: words for all stages or one, and perhaps a preparation."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...models.errors import UserError
from ..arguments import CONFIGS, STAGE_NAMES
from .prepare import Preparation, check_source, read_preparation
from .words import DASHES, check_name, gpus_per_node, missing

SET_BY_US = ("--job-name", "--output", "--dependency", "--kill-on-invalid-dep", "--array")
SHORT = ("-J", "-o", "-d", "-a")  # the same


class Word(NamedTuple):
    stage: str  # empty: all of them
    text: str  # --option=value, FILE.yaml or key=value


@dataclass(frozen=True)
class Request:
    out: Path
    size: str  # of the shipped configurations
    words: list[Word]
    preparation: Preparation | None

    def words_of(self, stage: str) -> list[str]:
        """The words meant for a stage, in their order."""
        return [word.text for word in self.words if word.stage in ("", stage)]

    def gives(self, stage: str, key: str) -> bool:
        """Whether a setting of a stage is among the words."""
        return any(word.startswith(f"{key}=") for word in self.words_of(stage))

    def config_of(self, stage: str) -> str:
        """The shipped configuration of a stage; a stage that lacks the size takes the one it is a kind of, or debug."""
        sizes = (self.size, self.size.partition("-")[0], "debug")
        return next(f"{stage}-{size}" for size in sizes if (CONFIGS / f"{stage}-{size}.yaml").is_file())


def read_request(out: Path, typed: list[str], *, size: str, dry_run: bool) -> Request:
    """Read and check [[STAGE:]WORD ...] [-- arguments of `emohead slurm prepare`].

    Raises UserError, before anything is made, where a word has no meaning or the data is missing.
    """
    if str(out).startswith("-"):
        raise UserError(out, "comes before the folder", "write: emohead slurm pipeline OUT [[STAGE:]WORD ...]")
    if out.exists() and not out.is_dir():
        raise UserError(out, "is a file", "give a folder for the chain's runs")
    sizes = {path.stem.partition("-")[2] for path in CONFIGS.glob("*-*.yaml")}
    check_name(size, sizes, where=f"--config={size}", problem="no configurations of that size are shipped")
    at = typed.index(DASHES) if DASHES in typed else len(typed)
    words = [read_word(word) for word in typed[:at]]
    preparation = read_preparation(typed[at + 1 :]) if DASHES in typed else None
    request = Request(out.resolve(), size, words, preparation)
    for stage in STAGE_NAMES:
        gpus_per_node([word for word in request.words_of(stage) if word.startswith("-")])
    check_data(request, dry_run=dry_run)
    return request


def read_word(typed: str) -> Word:
    """A word and the stage before its colon. Raises UserError if it is none that the chain understands."""
    parts = re.fullmatch(r"([\w-]+):(.+)", typed)
    if parts and not typed.startswith("-"):
        check_name(parts[1], STAGE_NAMES, where=typed, problem="no such stage")
    word = Word(parts[1], parts[2]) if parts and not typed.startswith("-") else Word("", typed)
    name = word.text.partition("=")[0]
    if name == "--config":
        raise UserError(typed, "the size is one for all stages", "write --config=SIZE")
    if name in (*SET_BY_US, "run") or word.text.startswith(SHORT):
        raise UserError(typed, "is set by this command")
    if not re.match(r"--[a-z]|[a-z][\w.]*=|.*\.yaml$", word.text):
        raise UserError(f"'{typed}'", "wanted is key=value, FILE.yaml or --option=value", "for one stage as STAGE:WORD")
    if word.text.endswith(".yaml") and "=" not in word.text and not Path(word.text).is_file():
        raise UserError(typed, "no such file", "give a config file of yours; --config=SIZE names shipped ones")
    return word


def check_data(request: Request, *, dry_run: bool) -> None:
    """Whether there is data: folders that are prepared, addresses, or something to prepare."""
    shards = [word.text.partition("=")[2] for word in request.words if word.text.startswith("data.shards=")]
    if request.preparation:
        check_source(request.preparation, dry_run=dry_run)
    elif not shards:
        remedy = "give data.shards=[FOLDER], or behind -- what `emohead slurm prepare` is to prepare"
        raise UserError("slurm pipeline", "no data", remedy)
    planned = request.preparation.data if request.preparation else None
    for folder in {name.strip(" '\"") for names in shards for name in names.strip("[]").split(",")}:
        elsewhere = "://" in folder or folder.startswith("pipe:")
        ready = elsewhere or Path(folder).resolve() == planned or (Path(folder) / "manifest.json").is_file()
        if folder and not ready:
            remedy = "give a folder that `emohead prepare` wrote, or its preparation behind --"
            missing(UserError(f"data.shards=[{folder}]", "no prepared data set there", remedy), dry_run=dry_run)
