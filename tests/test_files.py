"""Files are there as a whole or not at all."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from emohead.models.errors import UserError
from emohead.models.files import write_json, written_aside


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with written_aside(path) as file:
        file.write_text("after")
        assert path.read_text() == "before"
        assert file.name == "a.txt.partial"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(TypeError), written_aside(path, tmp_path / "own") as file:
        file.write_bytes("half")  # type: ignore[arg-type]
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_indented_or_short(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1]})
    write_json(tmp_path / "b.json", {"a": [1]}, indent=None)
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  1\n ]\n}\n'
    assert (tmp_path / "b.json").read_text() == '{"a":[1]}\n'


def test_a_disk_that_is_full_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    code = """
import resource, sys
from pathlib import Path
import torch
from emohead.models.checkpoint import save_checkpoint
from emohead.models.files import write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
path = Path(sys.argv[1])
for write in (
    lambda: write_json(path / "a.json", ["text"] * 10_000),
    lambda: save_checkpoint(path / "b.safetensors", {"w": torch.zeros(10_000)}, kind="face", config={}),
):
    try:
        write()
    except OSError as error:
        print(error.errno, Path(error.filename).name)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == [str(errno.EFBIG), "a.json", str(errno.EFBIG), "b.safetensors"], done.stderr
    assert not list(tmp_path.iterdir())


def test_a_name_too_long_to_be_written_aside_under_it_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / ("在" * 83 + ".json")
    write_json(path, 1)
    assert path.read_text() == "1\n"
    with pytest.raises(UserError, match="255"), written_aside(tmp_path / ("x" * 256)):
        pass
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
