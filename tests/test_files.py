"""Files are there as a whole or not at all."""

import json
from pathlib import Path

import pytest
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
