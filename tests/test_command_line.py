"""Habits of the command line: help as it is written, completion, JSON for programs, settings without a run."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from emohead.apps import cli
from emohead.trainers.all_stages import STAGES
from emohead.trainers.config import as_dict, load_config
from emohead.trainers.keys import keys_of
from typer.testing import CliRunner

from .shard_clips import damage, write_clips
from .shell_words import left_to_the_shell
from .stages import SPACE, EmotionSpace, export

Call = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent


def commands(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands and groups with the words that lead to them."""
    command = command or typer.main.get_command(cli.app)
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))


ALL = list(commands())


def shown(*words: str) -> str:
    """A help text on a wide terminal, without the lines around it."""
    result = CliRunner().invoke(cli.app, words, env={"COLUMNS": "500", "TERMINAL_WIDTH": "500"})
    assert result.exit_code == 0, result.output
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["emohead", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        code = left.value.code
        return (code if isinstance(code, int) else 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "data"
    write_clips(out, counts={"train": 4, "val": 2, "test": 3})
    return out


# ---------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) or "emohead" for words, _ in ALL])
def test_help_shows_what_is_written(words: tuple[str, ...], command: Any) -> None:
    """rich takes [data/mine] for the name of a style, unless it is told not to."""
    found = shown(*words, "-h")
    assert found == shown(*words, "--help")
    texts = [command.help, command.epilog, *(getattr(p, "help", None) for p in command.params if not p.hidden)]
    for text in filter(None, texts):
        assert " ".join(inspect.cleandoc(text).replace("\\[", "[").split()) in found


def test_examples_reach_the_command_as_they_are_written() -> None:
    examples = [line for _, command in ALL for line in (command.epilog or "").replace("\\[", "[").split("\n\n")[1:]]
    assert any("'data.shards=[data/mine]'" in line for line in examples)
    headers = [line for path in (ROOT / "configs").glob("*.yaml") for line in path.read_text().splitlines()]
    examples += [line.lstrip("# ") for line in headers if line.startswith("#   emohead")]
    assert len(examples) > 30
    assert not [line for line in examples if left_to_the_shell(line)]


def test_what_a_shell_expands_is_seen() -> None:
    assert left_to_the_shell("emohead train face data.shards=[a] 'x=[b]' run=~/b \"{c}\"") == [
        "data.shards=[a]",
        "run=~/b",
    ]


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize(
    "words", ["demo", "prepare synthetic data", "infer x --portrait x --speech x --out x.mp4", "sweep x"]
)
def test_seeds_are_what_numpy_takes(words: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, [*words.split(), "--seed", str(seed)])
    assert result.exit_code == 2
    assert "Invalid value for '--seed'" in result.output
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- completion


def completed(*words: str, shell: str = "bash", cwd: Path | None = None) -> list[str]:
    """What a shell offers for the last word."""
    line = {"COMP_WORDS": " ".join(["emohead", *words]), "COMP_CWORD": str(len(words))}
    if shell != "bash":
        line = {"_TYPER_COMPLETE_ARGS": " ".join(["emohead", *words])}
    code = "import sys; sys.argv = ['emohead']; from emohead.apps.cli import main; main()"
    environment = os.environ | line | {"_EMOHEAD_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=cwd)
    return done.stdout.splitlines()


def test_stages_and_shipped_configs_are_completed(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "face.txt").touch()
    (tmp_path / "runs").mkdir()
    assert completed("train", "") == list(STAGES)
    assert completed("doctor", "fa") == ["face"]
    assert completed("train", "face", "-c", "face-b", cwd=tmp_path) == ["face-base", "face-base-512"]
    assert completed("train", "face", "-c", "", cwd=tmp_path)[-2:] == ["mine.yaml", "runs/"]
    assert "motion-debug" not in completed("train", "face", "-c", "", cwd=tmp_path)
    assert "motion-debug" in "\n".join(completed("train", "motion", "--config", "mot", shell="zsh"))


def test_completion_can_be_shown_and_installed() -> None:
    script = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m emohead.apps.cli --show-completion; exit'],
        capture_output=True,
        text=True,
    )
    assert "complete -o" in script.stdout, script.stderr
    assert "--install-completion" in shown("--help")


# ---------------------------------------------------------------------------------------------- JSON


def test_doctor_answers_in_json(call: Call, data: Path, tmp_path: Path) -> None:
    arguments = ["doctor", "face", f"data.shards=[{data}]", f"run={tmp_path / 'run'}"]
    code, out, _ = call(*arguments, "data.batch_size=8", "trainer.accumulate=3", "--json")
    document = json.loads(out)
    assert code == 2
    wrong = [finding for finding in document["findings"] if finding["state"] == "wrong"]
    assert document["wrong"] == len(wrong)
    assert "data.batch_size=6 or 9" in [finding["remedy"] for finding in wrong]


def test_shards_answer_in_json(call: Call, data: Path, tmp_path: Path) -> None:
    code, out, _ = call("shards", "info", data, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["codec"], told["size"]) == ("mjpeg", 32)
    assert {name: split["clips"] for name, split in told["splits"].items()} == {"train": 4, "val": 2, "test": 3}
    assert {codec["codec"]: codec["held"] for codec in told["codecs"]} == {"mjpeg": True, "h264": False}

    write_clips(tmp_path / "data")
    damage(tmp_path / "data", "clip002")
    code, out, _ = call("shards", "verify", tmp_path / "data", "--json", "--workers", 1)
    assert code == 1
    assert any("clip002" in problem for problem in json.loads(out)["problems"])

    code, out, err = call("shards", "verify", tmp_path / "none", "--json")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_evaluate_answers_in_json(call: Call, data: Path, tmp_path: Path) -> None:
    checkpoint = export(EmotionSpace(SPACE), "emotion", tmp_path)
    code, out, err = call("evaluate", checkpoint, data, "--json", "--out", tmp_path / "out")
    told = json.loads(out)
    assert code == 0
    assert told == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["clips"] == 3
    assert all(isinstance(value, float) for value in told["metrics"].values())
    assert "evaluation.html" in err.replace("\n", "")


def test_stages_answer_in_json(call: Call) -> None:
    told = {stage["name"]: stage for stage in json.loads(call("stages", "--json")[1])}
    assert list(told) == list(STAGES)
    assert told["motion"]["starts_from"] == [{"key": "emotion", "kind": "emotion", "needed": True}]
    assert told["distill"]["kind"] == "talker"


# ---------------------------------------------------------------------------------------------- settings without a run


def test_the_printed_configuration_is_that_of_the_run(call: Call, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["optimizer.lr=1e-4", "data.shards=[a,b]"]
    code, out, _ = call("train", "face", "-c", "face-debug", *overrides, "--print-config")
    assert code == 0
    assert not list(tmp_path.iterdir()), "nothing was started"
    (tmp_path / "printed.yaml").write_text(out)
    schema = STAGES["face"].config_type
    assert load_config(schema, [Path("printed.yaml")], []) == load_config(schema, [Path("face-debug")], overrides)
    assert call("train", "face", "optimizer.rl=1", "--print-config")[0] == 2


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_has_a_line_of_help_and_its_default(stage: str) -> None:
    schema = STAGES[stage].config_type
    keys = keys_of(schema)
    assert len({key.name for key in keys}) == len(keys) > 60
    for key in keys:
        assert 3 < len(key.help) <= 100, f"say behind the field what {key.name} is"
    typed = [f"{key.name}={key.default}" if key.default else f"{key.name}=''" for key in keys]
    assert as_dict(load_config(schema, [], typed)) == as_dict(schema())


def test_keys_are_listed_with_their_ranges(call: Call) -> None:
    code, out, _ = call("train", "face", "--keys", "optimizer", "data.cross_clip")
    assert code == 0
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for line in out.splitlines()
        if (cells := line.split("│"))[1:]
    }
    assert rows["optimizer.lr"][:3] == ["float", "0.002", "above 0"]
    assert rows["data.cross_clip"][:3] == ["float", "0.0", "from 0 to 1"]
    assert {name.split(".")[0] for name in rows} == {"optimizer", "data"}
    code, _, err = call("train", "face", "--keys", "optimiser")
    assert code == 2
    assert "did you mean 'optimizer'?" in err


def test_from_a_folder_without_installation_versions_are_said_to_lack(tmp_path: Path) -> None:
    code = """
import sys
from importlib import metadata
real = metadata.distribution
def distribution(name):
    if name == "emohead":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.distribution = distribution
sys.argv = ["emohead", "--version"]
from emohead.apps.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("not installed", 0), done.stderr
