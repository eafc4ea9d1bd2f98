"""The reader of HDTF: annotations, downloads, crops, people."""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emohead.datamodules.corpora.hdtf import fit_crop, read_annotations, read_hdtf
from emohead.datamodules.media.read import MediaInfo
from emohead.datamodules.media.write import write_video
from emohead.datamodules.sample import SAMPLES_PER_FRAME
from emohead.models.errors import UserError

FILES = {
    "RD_video_url.txt": "\ufeffRadio1 https://y/1\nRadio24 https://y/24\n",
    "RD_annotion_time.txt": "Radio1.mp4 00:00-00:01 00:02-00:30 \n",
    "RD_resolution.txt": "Radio1.mp4 36\nRadio24.mp4 36\n",
    "RD_crop_wh.txt": "Radio1_0.mp4 4 30 2 30\n",
    "RD_crop_ratio.txt": "Radio1_0.mp4 1.2\n",
    "WDA_video_url.txt": "AnnLee0 https://y/a0\r\nAnnLee1 https://y/a1\r\n\r\nJo-Ann https://y/j\r\n",
    "WDA_annotion_time.txt": "AnnLee0.mp4 00:00-00:02\nAnnLee1.mp4 01:05-02:10\nJo-Ann.mp4\t00:01-00:02",
    "WDA_resolution.txt": "AnnLee0.mp4 72\nAnnLee1.mp4 72\nJo-Ann.mp4 0\n",
    "WDA_crop_wh.txt": "AnnLee0_0.mp4 10 41 7 41\nAnnLee1_0.mp4 0 5 0 5\nJo-Ann_0.mp4 1 9 0 9\n",
    "WDA_crop_ratio.txt": "AnnLee0_0.mp4 1.2\n",
    "WRA_video_url.txt": "BobDoe https://y/b\n",
    "WRA_annotion_time.txt": "BobDoe.mp4 00:00-00:01\n",
    "WRA_resolution.txt": "BobDoe.mp4 36\n",
    "WRA_crop_wh.txt": "BobDoe_0.mp4 0 36 0 36\n",
    "WRA_crop_ratio.txt": "",
}


@pytest.fixture
def hdtf(tmp_path: Path) -> Path:
    """A small data set: its annotations, no video yet."""
    (tmp_path / "HDTF_dataset").mkdir()
    for name, text in FILES.items():
        (tmp_path / "HDTF_dataset" / name).write_text(text, encoding="utf-8", newline="")
    return tmp_path


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Puts a video of 3 s, 64x36 pixels, with sound, to a path."""
    source = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(source, np.zeros((75, 36, 64, 3), np.uint8), np.zeros(75 * SAMPLES_PER_FRAME, np.float32))

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
        return path

    return put


# -- files -----------------------------------------------------------------------------------------------------------


def test_intervals_become_sources(hdtf: Path, film: Callable[[Path], Path]) -> None:
    radio, ann = film(hdtf / "RD" / "Radio1.mkv"), film(hdtf / "WDA_AnnLee0.mp4")
    found = read_hdtf(hdtf)
    assert found.dataset == "hdtf"
    assert [(s.path, s.name, s.identity, s.start, s.stop, s.crop) for s in found.sources] == [
        (radio, "RD/Radio1_0.mp4", "Radio1", 0.0, 1.0, (4, 2, 30, 30)),
        (radio, "RD/Radio1_1.mp4", "Radio1", 2.0, 3.0, None),  # to the end of the file
        (ann, "WDA/AnnLee0_0.mp4", "AnnLee", 0.0, 2.0, (5, 3, 20, 20)),
    ]
    assert found.notes == [
        "RD/Radio1_1.mp4: no crop: the annotations have no line",
        "WDA/AnnLee0_0.mp4: crop scaled from 72 to 36 lines",
    ]
    assert all(source.audio is None and source.emotion is None for source in found.sources)


def test_every_file_that_is_left_out_is_named(hdtf: Path, film: Callable[[Path], Path], tmp_path: Path) -> None:
    first = film(hdtf / "a" / "BobDoe.mp4")
    for name in ("b/BobDoe.mp4", "RD_Radio1_000.mp4", "Radio1_1.mp4", "holiday.mp4"):
        film(hdtf / name)
    (hdtf / "Radio1.mp4").write_bytes(b"no film")
    late, mute = film(hdtf / "AnnLee1.webm"), hdtf / "Jo-Ann.mp4"
    write_video(mute, np.zeros((3, 16, 16, 3), np.uint8))
    found = read_hdtf(hdtf)
    assert [(source.name, source.path) for source in found.sources] == [("WRA/BobDoe_0.mp4", first)]
    reasons = {rejected.source: rejected.reason for rejected in found.rejected}
    assert len(reasons) == len(found.rejected)
    assert reasons.pop("RD/Radio1").startswith(f"{hdtf / 'Radio1.mp4'}: not a readable media file")
    assert reasons == {
        "b/BobDoe.mp4": "the same video as a/BobDoe.mp4",
        "RD_Radio1_000.mp4": "a clip that was cut already",
        "Radio1_1.mp4": "a clip that was cut already",
        "holiday.mp4": "not in the annotations",
        "RD/Radio24": "no interval in RD_annotion_time.txt",
        "WDA/AnnLee0": "not downloaded: https://y/a0",
        "WDA/AnnLee1_0.mp4": f"begins at 65 s, but {late} ends at 3 s",
        "WDA/Jo-Ann": f"{mute}: holds no sound",
    }
    kept = read_hdtf(hdtf, keep_silent=True)
    assert not [rejected for rejected in kept.rejected if rejected.code == "no_audio"]
    assert len(kept.sources) + len(kept.rejected) > len(found.sources) + len(found.rejected) - 1


def test_annotations_may_lie_elsewhere(hdtf: Path, film: Callable[[Path], Path]) -> None:
    film(hdtf / "videos" / "BobDoe.mp4")
    with pytest.raises(UserError, match=r"videos: holds no RD_annotion_time\.txt; get HDTF_dataset"):
        read_hdtf(hdtf / "videos")
    found = read_hdtf(hdtf / "videos", annotations=hdtf / "HDTF_dataset")
    assert [source.crop for source in found.sources] == [(0, 0, 36, 36)]


def test_folders_without_videos_are_refused(hdtf: Path, film: Callable[[Path], Path]) -> None:
    film(hdtf / "other.mp4")
    with pytest.raises(UserError, match=r"none of HDTF's 6 videos; .*\(Radio1\.mp4 from https://y/1\)"):
        read_hdtf(hdtf)
    film(hdtf / "RD_Radio1_000.mp4")
    with pytest.raises(UserError, match="clips that were cut already, not HDTF's videos; prepare it as a plain folder"):
        read_hdtf(hdtf)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("WDA_annotion_time.txt", "AnnLee0.mp4 00:10\n", ["line 1", "'00:10'", "00:05-01:10"]),
        ("WDA_annotion_time.txt", "\nAnnLee0.mp4 00:10-00:10\n", ["line 2", "'00:10-00:10'"]),
        ("WDA_crop_wh.txt", "AnnLee0_0.mp4 1 2 3\n", ["line 1", "3 cells", "not 4"]),
        ("WDA_crop_wh.txt", "AnnLee0_0.mp4 1 2 3 x\n", ["line 1", "1 2 3 x", "whole numbers"]),
        ("WDA_crop_wh.txt", "Nobody_0.mp4 1 2 3 4\n", ["line 1", "Nobody"]),
        ("WRA_video_url.txt", "BobDoe u\nAnnLee0 u\n", ["line 2", "AnnLee0 is there twice"]),
        ("RD_resolution.txt", None, ["no such file", "github.com/MRzzm/HDTF"]),
    ],
)
def test_damaged_annotations_are_named(hdtf: Path, name: str, text: str | None, words: list[str]) -> None:
    path = hdtf / "HDTF_dataset" / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError) as error:
        read_hdtf(hdtf)
    assert "\n" not in str(error.value)
    for word in [name, *words]:
        assert word in str(error.value)


# -- crops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "height", "expected", "words"),
    [
        ((1280, 720), 720, (100, 20, 700, 700), ""),
        ((960, 720), 720, (100, 20, 700, 700), ""),  # as high as stated: whatever its aspect
        ((1920, 1080), 720, (150, 30, 1050, 1050), "scaled from 720 to 1080"),
        ((640, 360), 720, (50, 10, 350, 350), "scaled from 720 to 360"),
        ((1920, 1072), 720, (148, 29, 1042, 1042), "scaled from 720 to 1072"),  # 1280x720, in blocks of 16
        ((1440, 1080), 720, None, "1440x1080 is not 16:9"),
        ((640, 720), 720, None, "leaves the 640x720 picture"),
        ((1280, 720), 719, None, "leaves the 719 lines"),
        ((1280, 720), 0, None, "leaves the 0 lines"),
        ((1280, 720), None, None, "leaves the 0 lines"),
    ],
)
def test_crops_stand_are_scaled_or_dropped(
    size: tuple[int, int], height: int | None, expected: tuple[int, ...] | None, words: str
) -> None:
    info = MediaInfo(60.0, True, True, *size)
    crop, note = fit_crop((100, 20, 700, 700), height, info)
    assert crop == expected
    assert words in note
    assert bool(note) == bool(words)


# -- the published annotations ---------------------------------------------------------------------------------------


def test_the_published_annotations(real_data: Path) -> None:
    videos = read_annotations(real_data / "annotations" / "hdtf")
    intervals = [(video, number) for video in videos for number in range(len(video.intervals))]
    lacking = [f"{video.name}_{number}" for video, number in intervals if number not in video.crops]
    print(f"{len(videos)} videos, {len(intervals)} intervals, {len(lacking)} without a crop line: {lacking}")
    assert Counter(video.group for video in videos) == {"RD": 57, "WDA": 183, "WRA": 130}
    assert Counter(video.group for video, _ in intervals) == {"RD": 66, "WDA": 195, "WRA": 175}
    assert (len(intervals), len(lacking)) == (436, 15)
    assert {"Radio6_0", "LindaSnchez_0", "DuncanHunter_1"} < set(lacking)
    assert [video.name for video in videos if not video.intervals] == ["Radio24"]
    assert sum(len(video.crops) for video in videos) == 421
    assert all(width == height for video in videos for _, _, width, height in video.crops.values())
    first = {video.name: video for video in videos}["CarolynMaloney2"]  # behind the byte order mark
    assert first.url == "https://www.youtube.com/watch?v=RApGxN-O9Qc"


def test_published_crops_hold_for_the_pictures_they_state(real_data: Path) -> None:
    """Read as left, width, top, height, every crop but five lies inside a 16:9 picture as high as stated."""
    dropped, scaled = [], 0
    for video in read_annotations(real_data / "annotations" / "hdtf"):
        for number, crop in video.crops.items():
            height = video.height or 1080
            kept, _ = fit_crop(crop, video.height, MediaInfo(60.0, True, True, round(height * 16 / 9), height))
            if kept is None:
                dropped.append(f"{video.name}_{number}")
                continue
            assert kept == crop
            full, note = fit_crop(crop, video.height, MediaInfo(60.0, True, True, 1920, 1080))
            scaled += full is not None and note != ""
    print(f"{len(dropped)} crops dropped, {scaled} scaled for 1080 lines")
    assert sorted(dropped) == [
        "KevinMcCarthy1_0",  # stated: 0 lines
        "KevinMcCarthy1_1",
        "MaggieHassan_0",  # 776 of 720 lines
        "MazieHirono1_0",  # 1134 of 720
        "PeterKing_0",  # 872 of 720
    ]


def test_published_people(real_data: Path) -> None:
    people = defaultdict(set)
    for video in read_annotations(real_data / "annotations" / "hdtf"):
        people[video.identity].add(video.name)
    assert people["MarkWarner"] == {"MarkWarner", "MarkWarner1", "MarkWarner2"}
    assert people["JamesClyburn"] == {"JamesClyburn", "JamesClyburn1", "WhipJimClyburn"}
    assert people["LucilleRoybal-Allard"] == {"LucilleRoybal-Allard"}
    assert people["Radio2"] == {"Radio2"}  # a number there is no running number of a person
    named = [person for person in people if not person.startswith("Radio")]
    print(f"{len(named)} people with names, {len(people) - len(named)} Radio videos")
    assert (len(named), len(people)) == (219, 219 + 57)
    assert not any(person[-1].isdigit() for person in named)


@pytest.fixture(scope="session")
def everything(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All videos of HDTF, as links to one film of 20 minutes with a picture a second, 32x18 pixels."""
    folder = tmp_path_factory.mktemp("hdtf")
    black = np.zeros((18, 32, 3), np.uint8)
    write_video(folder / "film.mpv", (black for _ in range(1200)), np.zeros(16_000, np.float32), fps=1)
    for video in read_annotations(real_data / "annotations" / "hdtf"):
        (folder / video.group).mkdir(exist_ok=True)
        (folder / video.group / f"{video.name}.mp4").symlink_to(folder / "film.mpv")
    return folder


def test_the_published_data_set_downloaded_whole(real_data: Path, everything: Path) -> None:
    found = read_hdtf(everything, annotations=real_data / "annotations" / "hdtf")
    assert [rejected.source for rejected in found.rejected] == ["RD/Radio24"]
    assert len(found.sources) == len({source.name for source in found.sources}) == 436
    notes = Counter(note.split(": ")[1].split(" ")[1] for note in found.notes)
    assert notes == {"crop": 15, "scaled": 416, "dropped": 5}
    assert sum(source.crop is None for source in found.sources) == 20
    assert all(source.stop is not None and source.stop > source.start for source in found.sources)
    splits = defaultdict(set)
    for source in found.sources:
        splits[source.identity].add(source.split)
    people = Counter(split for person, own in splits.items() for split in own if not person.startswith("Radio"))
    clips = Counter(source.split for source in found.sources)
    print(f"clips {dict(clips)}, people {dict(people)}")
    assert all(len(own) == 1 for own in splits.values())
    assert people == {"train": 177, "val": 21, "test": 21}
    assert found.split_rule.startswith("fixed")
    assert all(source.split == "train" for source in found.sources if source.name.startswith("RD/"))


def test_a_person_keeps_the_split_on_every_disk(real_data: Path, everything: Path, tmp_path: Path) -> None:
    annotations = real_data / "annotations" / "hdtf"
    whole = {source.name: source.split for source in read_hdtf(everything, annotations=annotations).sources}
    for path in sorted((everything / "WDA").iterdir())[:60]:
        (tmp_path / path.name).symlink_to(path)
    part = read_hdtf(tmp_path, annotations=annotations)
    assert {source.name: source.split for source in part.sources} == {
        name: split for name, split in whole.items() if (tmp_path / f"{name[4:].rpartition('_')[0]}.mp4").exists()
    }
    reasons = Counter(rejected.reason.split(":")[0] for rejected in part.rejected)
    assert reasons == {"not downloaded": 369 - 60, "no interval in RD_annotion_time.txt": 1}


def test_few_videos_are_split_among_themselves(real_data: Path, everything: Path, tmp_path: Path) -> None:
    for name in ("WDA/AdamSchiff", "WDA/AmyKlobuchar0", "WDA/AmyKlobuchar1", "WRA/TomPrice"):
        (tmp_path / f"{name[4:]}.mp4").symlink_to(everything / f"{name}.mp4")
    found = read_hdtf(tmp_path, annotations=real_data / "annotations" / "hdtf")
    assert {source.identity for source in found.sources} == {"AmyKlobuchar", "AdamSchiff", "TomPrice"}
    assert {source.split for source in found.sources} == {None}
    assert found.split_rule == "identity"


def test_already_cut_clips_are_for_the_plain_folder(real_data: Path) -> None:
    with pytest.raises(UserError, match="hdtf: holds clips that were cut already"):
        read_hdtf(real_data / "clips" / "hdtf", annotations=real_data / "annotations" / "hdtf")
