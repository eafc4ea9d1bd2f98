"""The demo's report: all sections, nothing from outside, and no stumbling over what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from emohead.apps import charts
from emohead.apps.pictures import contact_sheet
from emohead.apps.report import write_report
from emohead.apps.report_sections import reached
from emohead.models.errors import UserError
from PIL import Image

FIGURES = [
    {"name": "retrieval", "value": 0.9, "baseline": 0.125, "target": 0.8, "unit": "top-1 of 8", "note": "emotion"},
    {"name": "student", "value": -2.0, "baseline": None, "target": -1.5, "unit": "dB", "note": "distill"},
    {"name": "a < b", "value": float("nan"), "baseline": None, "target": None, "unit": "dB", "note": ""},
]


class Page(HTMLParser):
    """A page as a reader's browser would find it: ids, text, and everything that could be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.without_alt = 0
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.loads += [value or "" for name, value in attributes if name in ("src", "href", "poster", "xlink:href")]
        self.without_alt += tag == "img" and not given.get("alt")

    def handle_data(self, data: str) -> None:
        self.words += data


def write_metrics(folder: Path) -> None:
    content = {
        "figures": [figure | {"higher_is_better": True} for figure in FIGURES],
        "timings": {"corpus": 30.0, "emotion": 130.0},
        "corpus": {"clips": 1520, "identities": 26, "test_identities": 4},
        "machine": {"threads": 2},
    }
    (folder / "metrics.json").write_text(json.dumps(content))


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A demo's folder with a little of everything."""
    write_metrics(tmp_path)
    for name in ("portrait", "emotion", "pictures/corpus", "pictures/videos", "face/samples/frames-000002"):
        write_picture(tmp_path / f"{name}.png")
    write_picture(tmp_path / "face/samples/frames-000004.png")
    (tmp_path / "videos").mkdir()
    for way in ("text", "image", "audio"):
        (tmp_path / "videos" / f"{way}.mp4").write_bytes(b"a video")
        told = {"emotion": "happy", "given": "the text 'a <b>very</b> happy face'"}
        (tmp_path / "videos" / f"{way}.json").write_text(json.dumps(told))
    for stage in ("emotion", "motion", "face", "distill"):
        (tmp_path / stage).mkdir(exist_ok=True)
        (tmp_path / stage / "config.yaml").write_text("network:\n  clip: emohead-tiny\n  pretrained: ''\n")
        rows = [{"step": step, "train/loss": 1 / (step + 1), "train/a_loss": 0.0} for step in range(40)]
        rows += [{"step": 40, "train/loss": float("nan"), "val/top1": 0.5}]
        (tmp_path / stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_every_section_is_there(folder: Path):
    path = write_report(folder)
    text = path.read_text()
    page = Page(text)
    assert path == folder / "report.html"
    assert page.ids == ["videos", "figures", "training", "corpus", "time", "notes"]
    assert text.count("<video ") == 3
    assert text.count("<svg ") == 4 * 3  # loss, a loss, top-1 of each stage
    assert "is missing" not in page.words
    assert "a < b" in page.words
    assert "'a <b>very</b> happy face'" in page.words, "shown as written, not as markup"
    assert "1,520 clips of 26 drawn people" in page.words
    assert "1 of 2 targets reached" in page.words
    assert "2 min 40 s" in page.words
    assert page.words.count("✓ reached") == page.words.count("✗ missed") == 1
    assert "random weights" in page.words
    assert not list(folder.rglob("*.partial"))


def test_nothing_comes_from_outside(folder: Path):
    text = write_report(folder).read_text()
    page = Page(text)
    assert all(target.startswith(("data:", "#")) for target in page.loads)
    assert not re.search(r"url\(|@import|https?://", text)
    assert page.without_alt == 0


def test_missing_parts_are_named(tmp_path: Path):
    write_metrics(tmp_path)
    page = Page(write_report(tmp_path).read_text())
    for name in ("portrait.png", "videos/text.mp4", "emotion/metrics.jsonl", "distill/config.yaml", "corpus.png"):
        assert f"{name} is missing." in page.words


def test_a_folder_without_figures(tmp_path: Path):
    (tmp_path / "metrics.json").write_text('{"figures": []}')
    assert "metrics.json holds no timings." in write_report(tmp_path).read_text()


@pytest.mark.parametrize("content", [None, "{", "{}", "[]", '{"figures": 3}'])
def test_metrics_are_needed(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json: "):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_lower_can_be_better():
    assert reached({"value": 1.0, "target": 2.0, "higher_is_better": False})
    assert not reached({"value": float("nan"), "target": 2.0})


def test_a_wide_range_is_drawn_on_a_log_scale():
    wide = [(step, 10.0 ** (-step / 10)) for step in range(60)]
    narrow = [(step, 1.0 + step / 60) for step in range(60)]
    assert ["log scale" in panel for panel in charts.panels({"train/a": wide, "train/b": narrow})] == [True, False]
    assert charts.ticks(0.002, 2.0, log=True) == pytest.approx([0.01, 0.1, 1.0])
    assert charts.ticks(-0.1, 1.9, log=False) == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_smoothing_keeps_a_constant_and_long_curves_are_thinned():
    flat = [(step, 3.0) for step in range(1000)]
    assert [value for _, value in charts.smoothed(flat)] == pytest.approx([3.0] * 1000)
    thin = charts.thinned(flat)
    assert len(thin) <= charts.MAX_POINTS + 1
    assert (thin[0], thin[-1]) == (flat[0], flat[-1])


def test_contact_sheet_places_pictures_in_rows():
    images = [np.full((40, 40, 3), shade, np.uint8) for shade in (50, 100, 200)]
    sheet = contact_sheet(images, 2, ["one", "", "three"])
    assert sheet.dtype == np.uint8
    half_height, half_width = sheet.shape[0] // 2, sheet.shape[1] // 2
    quarters = [sheet[:half_height, :half_width], sheet[:half_height, half_width:], sheet[half_height:, :half_width]]
    for shade, quarter in zip((50, 100, 200), quarters, strict=True):
        assert (quarter == shade).all(axis=-1).sum() >= 40 * 40
    assert contact_sheet(images, 3).shape[0] < contact_sheet(images, 3, ["a", "b", "c"]).shape[0]
