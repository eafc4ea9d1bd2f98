"""The reader of MEAD: names, layouts, views, sound, splits."""

import gzip
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np
import pytest
from emohead.datamodules.corpora.mead import IDENTITY_TEST, IDENTITY_VAL, VIEWS, Take, parse_take, read_mead
from emohead.datamodules.media.write import write_video
from emohead.datamodules.prepare.listing import SourceList
from emohead.datamodules.sample import EMOTIONS, SPLITS
from emohead.models.errors import UserError

# Lists of the authors' code name folders of frames of an earlier edition, by the number of a camera take: no takes.
FRAME_FOLDER = re.compile(r"[MW]\d{3}_\d\d_[123]_output_\d\d")


def make(folder: Path, names: Iterable[str]) -> None:
    """Empty files: the reader opens none that has a sound file."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def actor_files(actor: str, view: str = "front", numbers: int = 12, part: str = "video") -> list[str]:
    """Videos and sound of two emotions, as the archives unpack."""
    groups = [("neutral", 1, numbers + 4), ("angry", 1, numbers), ("angry", 3, numbers)]
    return [
        name
        for emotion, level, count in groups
        for number in range(1, count + 1)
        for name in (
            f"{actor}/{part}/{view}/{emotion}/level_{level}/{number:03d}.mp4",
            f"{actor}/audio/{emotion}/level_{level}/{number:03d}.m4a",
        )
    ]


def by_name(found: SourceList) -> dict[str, str | None]:
    return {source.name: source.split for source in found.sources}


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "take"),
    [
        ("M003/video/front/angry/level_1/001.mp4", ("M003", "front", "angry", 1, 1)),
        ("W021/1/left_30/fear/level_3/058.mp4", ("W021", "left_30", "fear", 3, 58)),
        ("Part0/W021/video/2/down/neutral/level_1/077.mp4", ("W021", "down", "neutral", 1, 77)),
        ("M003/W009/front/sad/level_2/010.mp4", ("W009", "front", "sad", 2, 10)),
        ("M003/front/sad/level_2/010.mp4", ("M003", "front", "sad", 2, 10)),
        ("M003/sad/level_2/010.mp4", ("M003", "front", "sad", 2, 10)),
        ("M003/video/sad/level_2/010.mp4", ("M003", "front", "sad", 2, 10)),
        ("M003_ang_3_001.mp4", ("M003", "front", "angry", 3, 1)),
        ("clips/M003_level_1_disgusted_015", ("M003", "front", "disgusted", 1, 15)),
        ("Original_video/M003#angry#level_1#001.mp4", ("M003", "front", "angry", 1, 1)),
        ("W037/front/angry/level_3/W037_front_angry_level_3_034.mp4", ("W037", "front", "angry", 3, 34)),
        ("M003_right_60_con_2_007.mp4", ("M003", "right_60", "contempt", 2, 7)),
        ("M003_level_2_happy_top_007.mp4", ("M003", "top", "happy", 2, 7)),
        ("M003#left_60#surprised#level_2#007.mp4", ("M003", "left_60", "surprised", 2, 7)),
        ("top/M003_sad_2_007.mp4", ("M003", "top", "sad", 2, 7)),
    ],
)
def test_names_of_takes(path: str, take: tuple) -> None:
    assert parse_take(PurePath(path)) == Take(*take)


@pytest.mark.parametrize("name", EMOTIONS)
def test_short_names_of_emotions(name: str) -> None:
    level = 1 if name == "neutral" else 2
    found = parse_take(PurePath(f"W009_{name[:3]}_{level}_020.mp4"))
    assert found == parse_take(PurePath(f"W009/video/front/{name}/level_{level}/020.mp4"))
    assert found is not None
    assert found.emotion == name


@pytest.mark.parametrize(
    "path",
    [
        "001.mp4",
        "front/angry/level_1/001.mp4",  # no actor
        "M003/video/back/angry/level_1/001.mp4",
        "M003/video/front/anger/level_1/001.mp4",
        "M003/video/front/angry/level_4/001.mp4",
        "M003/video/front/neutral/level_2/001.mp4",
        "M003/video/front/angry/1/001.mp4",
        "M003/video/front/angry/level_1/take1.mp4",
        "M003/audio/angry/level_1/001.mp4",
        "M03_ang_3_001.mp4",
        "M003_neu_2_001.mp4",
        "M003_ang_3.mp4",
        "M003_ang_3_001_cropped.mp4",
        "M003_73_1_output_01",
    ],
)
def test_names_that_are_no_takes(path: str) -> None:
    assert parse_take(PurePath(path)) is None


def test_every_name_of_the_published_lists(real_data: Path) -> None:
    lists = real_data / "annotations" / "mead"
    names = [line.split()[0] for line in (lists / "list_full_mead_annotated.txt").read_text("utf-8").splitlines()]
    takes = [parse_take(PurePath(name)) for name in names]
    parsed = [take for take in takes if take is not None]
    frames: set[str] = set()
    for text in (
        gzip.decompress((lists / "video_list.txt.gz").read_bytes()).decode(),
        (lists / "video_list_test.txt").read_text(),
    ):
        frames |= {str(PurePath(word).parent) for word in text.split() if "/" in word}
    odd = [name for name in frames if parse_take(PurePath(name)) or not FRAME_FOLDER.fullmatch(PurePath(name).name)]
    print(f"{len(parsed)} of {len(names)} names are takes; {len(frames)} folders of frames are none")
    assert len(parsed) == len(names) == 31060
    assert len(set(parsed)) == 31060
    assert len({take.actor for take in parsed}) == 47
    assert Counter(take.emotion for take in parsed)["neutral"] == 1876
    assert set(Counter(take.emotion for take in parsed)) == set(EMOTIONS)
    assert (len(frames), odd) == (549, [])


# -- files -----------------------------------------------------------------------------------------------------------


def test_the_layout_of_the_archives_is_read(tmp_path: Path) -> None:
    make(tmp_path, actor_files("M003") + actor_files("W021", part="1") + actor_files("W021", "top", part="2"))
    found = read_mead(tmp_path)
    assert (found.dataset, found.rejected) == ("mead", [])
    assert "takes of views not asked for: 40 top" in found.notes
    assert len(found.sources) == 2 * (16 + 12 + 12)
    first = found.sources[0]
    assert first.name == "M003/video/front/angry/level_1/001.mp4"
    assert first.path == tmp_path / first.name
    assert first.audio == tmp_path / "M003/audio/angry/level_1/001.m4a"
    assert (first.identity, first.emotion, first.level, first.view) == ("M003", "angry", 1, "front")
    assert all(source.audio is not None and source.audio.is_file() for source in found.sources)
    keys = [(s.identity, s.view, s.path.stem, s.emotion, s.level) for s in found.sources]
    assert keys == sorted(keys)
    both = read_mead(tmp_path, views=("top", "front"))
    top = [source for source in both.sources if source.view == "top"]
    assert len(both.sources) == 3 * 40
    assert not any("views" in note for note in both.notes)
    assert top[0].audio == tmp_path / "W021/audio/angry/level_1/001.m4a"


def test_the_folder_may_be_that_of_one_actor(tmp_path: Path) -> None:
    make(tmp_path, actor_files("M003"))
    found = read_mead(tmp_path / "M003")
    assert {source.identity for source in found.sources} == {"M003"}
    assert len(found.sources) == 40


def test_flat_names_find_their_sound(tmp_path: Path) -> None:
    make(tmp_path, ["Original_video/M003#angry#level_1#001.mp4", "audio/M003#angry#level_1#001.wav"])
    make(tmp_path, ["W009_sad_2_004.mp4", "W009_sad_2_004.wav", "W009_left_30_sad_2_004.mp4"])
    write_video(tmp_path / "W011_hap_1_001.mp4", np.zeros((3, 16, 16, 3), np.uint8), np.zeros(3 * 640, np.float32))
    make(tmp_path, ["M005_level_3_happy_002.mp4", "M005_level_3_happy_002.m4a", "M005_top_hap_3_002.mp4"])
    make(tmp_path, ["M005_top_hap_3_002.wav"])
    found = {(s.identity, s.view): s for s in read_mead(tmp_path, views=("front", "left_30", "top")).sources}
    sounds = {key: source.audio and source.audio.name for key, source in found.items()}
    assert sounds == {
        ("M003", "front"): "M003#angry#level_1#001.wav",
        ("M005", "front"): "M005_level_3_happy_002.m4a",
        ("M005", "top"): "M005_top_hap_3_002.wav",  # its own before that of the front
        ("W009", "front"): "W009_sad_2_004.wav",
        ("W009", "left_30"): "W009_sad_2_004.wav",
        ("W011", "front"): None,  # the sound is in the video
    }


def test_every_file_that_is_left_out_is_named(tmp_path: Path) -> None:
    make(tmp_path, actor_files("M003") + actor_files("W017", "down"))
    make(tmp_path, ["M003/video/front/angry/level_1/readme.mp4", "M003_ang_1_002.mp4", "._x.mp4"])
    make(tmp_path, ["M003/video/front/sad/level_1/001.mp4"])
    silent = tmp_path / "M003/video/front/sad/level_1/002.mp4"
    write_video(silent, np.zeros((3, 16, 16, 3), np.uint8))
    found = read_mead(tmp_path)
    assert len(found.sources) == 40
    reasons = {rejected.source: rejected.reason for rejected in found.rejected}
    assert len(reasons) == len(found.rejected)
    assert reasons == {
        "M003/video/front/angry/level_1/readme.mp4": "its name is not that of a take of MEAD",
        "M003_ang_1_002.mp4": "the same take as M003/video/front/angry/level_1/002.mp4",
        "M003/video/front/sad/level_1/001.mp4": "no sound: no file such as M003/audio/sad/level_1/001.m4a, "
        "and none in the video",
        "M003/video/front/sad/level_1/002.mp4": "no sound: no file such as M003/audio/sad/level_1/002.m4a, "
        "and none in the video",
        "W017": "no take from front; there is down",
    }
    kept = read_mead(tmp_path, keep_silent=True)
    assert len(kept.sources) == 42
    assert not [rejected for rejected in kept.rejected if rejected.code == "no_audio"]
    (note,) = (note for note in kept.notes if "sound" in note)
    assert "without sound, for the face stage only: 2 (M003/video/front/sad/level_1/001.mp4: no sound: no file" in note


def test_wrong_use_is_refused_in_one_line(tmp_path: Path) -> None:
    make(tmp_path / "mead", actor_files("M003") + actor_files("M003", "top"))
    make(tmp_path / "packed", ["M003/video.tar", "M003/video/clip.mp4"])
    make(tmp_path / "mute", ["M003/video/front/angry/level_1/001.mp4"])
    cases = [
        (("missing",), {}, ["missing", "no such folder"]),
        (("packed",), {}, ["packed", "unpack", "M003/video/front/angry/level_1/001.mp4", "M003_ang_1_001.mp4"]),
        (("mute",), {}, ["mute", "no take has sound", "audio.tar"]),
        (("mead",), {"views": ("front", "left_60")}, ["left_60", "choose from front, top"]),
        (("mead",), {"views": ("back",)}, ["back", "right_60"]),
        (("mead",), {"views": ()}, ["views", "front"]),
        (("mead",), {"split": "train"}, ["'train'", "official, identity, random"]),
    ]
    for (name,), options, words in cases:
        with pytest.raises(UserError) as error:
            read_mead(tmp_path / name, **options)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)


# -- splits ----------------------------------------------------------------------------------------------------------


def test_official_split_counts_the_numbers_there_are(tmp_path: Path) -> None:
    numbers = [1, 2, 3, 7, 8, 9, 20, 30, 41, 57]  # with gaps
    make(tmp_path, [f"M003_level_2_angry_{n:03d}{end}" for n in numbers for end in (".mp4", ".wav")])
    make(tmp_path, [f"M003_neu_1_{n:03d}{end}" for n in range(1, 16) for end in (".mp4", ".wav")])
    make(tmp_path, [f"M005_sad_1_{n:03d}{end}" for n in (4, 5) for end in (".mp4", ".wav")])
    splits = by_name(read_mead(tmp_path, split="official"))
    angry = [splits[f"M003_level_2_angry_{n:03d}.mp4"] for n in numbers]
    assert angry == ["train"] * 2 + ["val"] * 2 + ["test"] * 6
    neutral = [splits[f"M003_neu_1_{n:03d}.mp4"] for n in range(1, 16)]
    assert neutral == ["train"] * 2 + ["val"] * 3 + ["test"] * 10
    assert splits["M005_sad_1_004.mp4"] == splits["M005_sad_1_005.mp4"] == "test"


@pytest.mark.parametrize("split", ["official", "identity", "random"])
def test_a_sentence_is_in_the_same_split_from_every_view(tmp_path: Path, split: str) -> None:
    """Also if the views have different gaps, and whichever views are asked for."""
    actors = ["M003", "M005", "M029", "W009", "W011", "W014", "W018"]
    names = [name for actor in actors for view in VIEWS for name in actor_files(actor, view)]
    names = [n for n in names if "top/angry/level_1/012" not in n and "front/angry/level_1/011" not in n]
    make(tmp_path, names)
    found = read_mead(tmp_path, views=VIEWS, split=split)
    takes = defaultdict(set)
    for source in found.sources:
        takes[source.identity, source.emotion, source.level, source.path.stem].add(source.split)
    assert all(len(splits) == 1 for splits in takes.values())
    assert {splits.pop() for splits in takes.values()} == set(SPLITS)
    alone = by_name(read_mead(tmp_path, views=("top",), split=split))
    assert alone == {name: value for name, value in by_name(found).items() if "/top/" in name}
    assert found.split_rule.startswith(split)


def test_identity_split_holds_out_the_usual_people(tmp_path: Path) -> None:
    make(tmp_path, [n for actor in (*IDENTITY_TEST, *IDENTITY_VAL, "M005", "W040") for n in actor_files(actor)])
    found = read_mead(tmp_path, split="identity")
    people = defaultdict(set)
    for source in found.sources:
        people[source.split].add(source.identity)
    assert people == {
        "train": {"M005", "W040"},
        "val": {"M029", "M042", "W018", "W038"},
        "test": {"M003", "M030", "W009", "W015"},
    }
    assert not found.notes


def test_absent_people_of_the_identity_split_are_named(tmp_path: Path) -> None:
    make(tmp_path, actor_files("M003") + actor_files("M005"))
    notes = read_mead(tmp_path, split="identity").notes
    assert notes == [
        f"test lacks {', '.join(name for name in IDENTITY_TEST if name != 'M003')}: not in the folder",
        f"val lacks {', '.join(IDENTITY_VAL)}: not in the folder",
    ]


def test_random_split_is_by_identity(tmp_path: Path) -> None:
    actors = [f"M{n:03d}" for n in range(1, 21)]
    make(tmp_path, [f"{actor}_sad_1_{n:03d}{end}" for actor in actors for n in (1, 2) for end in (".mp4", ".wav")])
    found = read_mead(tmp_path, split="random")
    people = defaultdict(set)
    for source in found.sources:
        people[source.identity].add(source.split)
    assert Counter(next(iter(splits)) for splits in people.values()) == {"train": 14, "val": 3, "test": 3}
    assert all(len(splits) == 1 for splits in people.values())
    assert sorted(actor for actor, splits in people.items() if splits == {"test"}) == [
        "M012",
        "M013",
        "M017",
    ]  # last by SHA-256


def test_splits_of_the_published_list(real_data: Path, tmp_path: Path) -> None:
    lines = (real_data / "annotations/mead/list_full_mead_annotated.txt").read_text("utf-8").splitlines()
    names = [line.split()[0] for line in lines]
    few = [name for name in names if name.startswith(("M009", "W023"))]
    make(tmp_path, [name + end for name in few for end in (".mp4", ".wav")])
    counts = Counter(source.split for source in read_mead(tmp_path, split="official").sources)
    print(f"{len(few)} takes of two actors: {dict(counts)}")
    assert counts["test"] == 2 * (10 + 21 * 6)
    assert counts["val"] == 2 * (3 + 21 * 2)
    assert counts.total() == len(few) == 625 + 652
