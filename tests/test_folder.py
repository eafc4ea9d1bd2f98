"""Any folder of videos and its labels."""

import csv
import os
import unicodedata
from pathlib import Path

import pytest
from emohead.datamodules.corpora.folder import LABEL_COLUMNS, find_files, read_folder
from emohead.datamodules.prepare.splits import split_identities
from emohead.models.errors import UserError


def make(folder: Path, *names: str) -> None:
    """Empty files: the reader opens none."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_labels(folder: Path, *rows: tuple[str, ...], header: tuple[str, ...] = LABEL_COLUMNS) -> None:
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def test_videos_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.MP4", "a/deep/c.webm", "a/x.mkv", "notes.txt", "a/sound.wav", "._b.MP4", ".cache/d.mp4")
    found = read_folder(tmp_path)
    assert found.dataset == tmp_path.name
    assert [s.name for s in found.sources] == ["a/deep/c.webm", "a/x.mkv", "b.MP4"]
    assert [s.identity for s in found.sources] == ["c", "x", "b"]
    assert all(s.path == tmp_path / s.name for s in found.sources)
    assert all(s.split is None and s.emotion is None and s.audio is None for s in found.sources)
    assert not found.rejected
    assert found.notes == ["not videos by their names: 1 .txt, 1 .wav"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    make(tmp_path / "disk", "anna/1.mp4")
    make(tmp_path / "set", "2.mp4")
    (tmp_path / "set" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "set")
    names = [p.relative_to(tmp_path / "set").as_posix() for p in find_files(tmp_path / "set", (".mp4",))]
    assert names == ["2.mp4", "more/anna/1.mp4"]


def test_files_of_one_name_are_several_people(tmp_path: Path) -> None:
    make(tmp_path, "anna/001.mp4", "bob/001.mp4", "carl.mp4")
    assert [s.identity for s in read_folder(tmp_path).sources] == ["anna/001.mp4", "bob/001.mp4", "carl"]


def test_labels_are_read(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4", "sub/b.mp4", "c.mp4", "d.mp4")
    write_labels(
        tmp_path, ("a.mp4", "ann", "happy", "3", "Yes, now."), ("sub/b.mp4", "", " neutral ", "", ""), ("c.mp4",)
    )
    a, c, d, b = read_folder(tmp_path).sources
    assert (a.identity, a.emotion, a.level, a.sentence) == ("ann", "happy", 3, "Yes, now.")
    assert (b.identity, b.emotion, b.level, b.sentence) == ("b", "neutral", 1, None)
    assert (c.identity, c.emotion, c.level, d.identity, d.emotion) == ("c", None, None, "d", None)


def test_labels_of_a_spreadsheet_are_read(tmp_path: Path) -> None:
    make(tmp_path, "é.mp4")
    (tmp_path / "labels.csv").write_bytes("\ufefffile,emotion\r\né.mp4,sad\r\n".encode())
    assert read_folder(tmp_path).sources[0].emotion == "sad"


@pytest.mark.parametrize(
    "table",
    [
        "file,identity,emotion,level\na.mp4,ann,happy,3\n",
        "file;identity;emotion;level\r\na.mp4;ann;happy;3\r\n",
        "file\tidentity\temotion\tlevel\na.mp4\tann\thappy\t3\n",
        "File,Identity,EMOTION,Level\n./a.mp4,ann,Happy,3.0\n",
        ",file,identity,emotion,level\n0,a.mp4,ann,happiness,3\n",
        "file,identity,emotion,level\n\n,,,\na.mp4,ann,joy,3.\n\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_labels_are_read_as_people_have_them(tmp_path: Path, table: str, encoding: str) -> None:
    make(tmp_path, "a.mp4")
    (tmp_path / "labels.csv").write_bytes(table.encode(encoding))
    (source,) = read_folder(tmp_path).sources
    assert (source.identity, source.emotion, source.level) == ("ann", "happy", 3)


def test_composed_letters_of_a_table_match_decomposed_ones_of_a_disk(tmp_path: Path) -> None:
    make(tmp_path, unicodedata.normalize("NFD", "José.mp4"), "anna.mp4")
    write_labels(
        tmp_path, (unicodedata.normalize("NFC", "José.mp4"), "", "happy"), header=("file", "identity", "emotion")
    )
    found = {source.name: source for source in read_folder(tmp_path).sources}
    assert found["José.mp4"].emotion == "happy"
    assert found["José.mp4"].path.exists()
    assert found["José.mp4"].identity == "José"


def test_both_spellings_of_a_name_on_one_disk_stay_apart(tmp_path: Path) -> None:
    make(tmp_path, unicodedata.normalize("NFD", "José.mp4"), unicodedata.normalize("NFC", "José.mp4"))
    assert len({source.name for source in read_folder(tmp_path).sources}) == 2


def test_a_name_that_is_not_utf8_can_be_told(tmp_path: Path) -> None:
    make(tmp_path, os.fsdecode(b"caf\xe9.mpg"))
    (source,) = read_folder(tmp_path).sources
    assert source.name == "caf\\xe9.mpg"
    assert source.path.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,emotion\na.mp4,furious\n", ["line 2", "furious", "surprised"]),
        ("file,emotion,level\na.mp4,sad,4\n", ["line 2", "'4'", "1, 2, 3"]),
        ("file,emotion,level\na.mp4,neutral,2\n", ["line 2", "neutral has level 1"]),
        ("file\nb.mp4\n", ["line 2", "'b.mp4'"]),
        ("file\na.mp4\na.mp4\n", ["line 3", "line 2"]),
        ("file,sentence\na.mp4,Yes, now\n", ["line 2", "quotes"]),
        ("name,emotion\na.mp4,sad\n", ["columns", "found name, emotion"]),
        ("file,emotion,emotion\na.mp4,sad,sad\n", ["columns", "once"]),
        ("file,emotion\na.mp4,suprised\n", ["line 2", "did you mean surprised"]),
        ("file,level\na.mp4,3.5\n", ["line 2", "'3.5'"]),
        ('file,sentence\na.mp4,"Well, he said\nb.mp4,Yes\n', ["line 2", "quote"]),
        ('file,sentence\nb.mp4,"Well\n' + "x.mp4,word\n" * 20_000, ["line 2", "quote"]),
        ("file\n\n\nb.mp4\n", ["line 4", "did you mean 'a.mp4'"]),
        ("", ["columns"]),
    ],
)
def test_wrong_labels_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    make(tmp_path, "a.mp4")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError) as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)
    for word in ["labels.csv", *words]:
        assert word in str(error.value)


def test_labels_in_another_encoding_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4")
    (tmp_path / "labels.csv").write_bytes(b"file,sentence\na.mp4,caf\xe9\n")
    with pytest.raises(UserError, match=r"labels\.csv: neither UTF-8 nor UTF-16"):
        read_folder(tmp_path)


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing: no such folder"):
        read_folder(tmp_path / "missing")
    make(tmp_path, "labels.csv")
    with pytest.raises(UserError, match=r"holds no video \(\.mp4"):
        read_folder(tmp_path)


# -- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 10, (1, 0, 0)), (2, 10, (1, 1, 0)), (3, 10, (1, 1, 1)), (30, 10, (24, 3, 3)), (40, 15, (28, 6, 6))],
)
def test_people_are_split_by_share(count: int, percent: int, expected: tuple[int, int, int]) -> None:
    names = [f"person {i}" for i in range(count)]
    splits = split_identities(names, val_percent=percent, test_percent=percent)
    assert splits == split_identities(names[::-1] + names, val_percent=percent, test_percent=percent)
    assert set(splits) == set(names)
    counts = tuple(sum(split == name for split in splits.values()) for name in ("train", "val", "test"))
    assert counts == expected


def test_the_order_of_people_is_that_of_their_hashes() -> None:
    # SHA-256 in hex: C 6b23…, A 559a…, B df7e…
    assert split_identities(["A", "B", "C"]) == {"A": "train", "C": "val", "B": "test"}
