"""Which clips are read: selections, several data sets, values that are refused."""

import math
from pathlib import Path

import numpy as np
import pytest
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.emotion_words import mentions
from emohead.models.errors import UserError

from .shard_clips import NUM_EXPRESSION, NUM_IDENTITY, SIZE, face_model, write_clips
from .stream_data import FakeTrainer, data_of, keys_of, take

NUM_TRAIN, NUM_VAL = 10, 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stream") / "data"
    write_clips(out, counts={"train": NUM_TRAIN, "val": NUM_VAL})
    return out


def test_selections_need_no_rewriting(corpus: Path) -> None:
    reader = ClipReader(corpus)
    wanted = sorted(key for key in reader.keys("train") if reader.info(key).emotion in ("contempt", "sad"))
    data = data_of(corpus, emotions=["contempt", "sad"])
    assert data.facts.num_train == len(wanted) > 1
    assert data.facts.emotions == ["contempt", "sad"]
    assert sorted(set(keys_of(take(data.train_dataloader(), 4)))) == wanted
    without = data_of(corpus, holdout_emotions=["contempt", "sad"])
    assert not {"contempt", "sad"} & set(without.facts.emotions)
    assert without.facts.num_train + len(wanted) == len(reader.keys("train"))
    assert not set(wanted) & set(keys_of(take(without.train_dataloader(), 8)))
    both = data_of(corpus, train_splits=["train", "val"], levels=[2])
    assert {reader.info(key).level for key in keys_of(take(both.train_dataloader(), 6))} == {2}
    with pytest.raises(UserError, match="no clip for training is selected"):
        data_of(corpus, views=["left_60"])


def test_descriptions_tell_nothing_of_what_is_held_out(corpus: Path) -> None:
    """A surprised face may look startled, which is a word for fear as well."""
    told = {}
    for name, held_out in {"all": [], "without": ["fear"]}.items():
        data = data_of(corpus, stage="emotion", emotions=["sad", "surprised"], holdout_emotions=held_out)
        told[name] = {text for batch in take(data.train_dataloader(), 60) for text in batch["prompt"]}
    assert "a person who looks startled while talking" in told["all"]
    assert told["without"] == {text for text in told["all"] if not mentions(text, ["fear"])}


def test_facts(corpus: Path) -> None:
    facts = data_of(corpus).facts
    assert (facts.motion_dim, facts.identity_dim, facts.size) == (NUM_EXPRESSION + 6, NUM_IDENTITY, SIZE)
    assert (facts.num_train, facts.num_val) == (NUM_TRAIN, NUM_VAL)
    np.testing.assert_allclose(facts.motion_mean, 14.5, rtol=1e-6)
    np.testing.assert_allclose(facts.motion_std, np.arange(30).std(), rtol=1e-6)
    assert facts.face_model.checksum() == face_model().checksum()


def test_several_data_sets_are_one(corpus: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "more", counts={"train": 4}, num_frames=60)
    data = data_of(corpus, tmp_path / "more")
    assert data.facts.num_train == NUM_TRAIN + 4
    assert len(keys_of(take(data.train_dataloader(), 7))) == 2 * (NUM_TRAIN + 4)
    values = np.concatenate([np.tile(np.arange(30), NUM_TRAIN), np.tile(np.arange(60), 4)])
    np.testing.assert_allclose(data.facts.motion_mean, values.mean(), rtol=1e-5)
    np.testing.assert_allclose(data.facts.motion_std, values.std(), rtol=1e-5)
    assert [part["clips"] for part in data.provenance()] == [NUM_TRAIN + NUM_VAL, 4]


def test_data_sets_that_do_not_fit_are_refused(corpus: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "other", counts={"train": 1}, model=face_model(seed=5))
    with pytest.raises(UserError, match=r"data and .*other are in different face models") as error:
        data_of(corpus, tmp_path / "other")
    assert f"emohead facemodel fit {corpus} {tmp_path / 'other'} pooled.npz" in str(error.value)
    assert "\n" not in str(error.value)
    write_clips(tmp_path / "large", counts={"train": 1}, size=64)
    with pytest.raises(UserError, match=r"\(32\) and .*large \(64\) have frames of different sizes; set data.size"):
        data_of(corpus, tmp_path / "large")
    batch = take(data_of(corpus, tmp_path / "large", stage="face", size=32).train_dataloader(), 1)[0]
    assert batch["portrait"].shape[-1] == 32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"emotions": ["joyful"]}, "data.emotions: 'joyful' is none of angry"),
        ({"holdout_emotions": ["joyful"]}, "data.holdout_emotions: 'joyful' is none of angry"),
        ({"levels": [4]}, "data.levels: 4 is none of 1, 2, 3"),
        ({"val_splits": ["dev"]}, "data.val_splits: 'dev'"),
        ({"decoder": "ffmpeg"}, "data.decoder: 'ffmpeg'"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"cross_clip": 1.5}, "data.cross_clip=1.5: must be from 0 to 1"),
        ({"cross_clip": math.nan}, "data.cross_clip=nan"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(corpus: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        data_of(corpus, **changes)


def test_no_folder_and_uneven_batches_are_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"data\.shards: empty"):
        data_of()
    with pytest.raises(UserError, match="no multiple of the number of processes = 3"):
        data_of(corpus, trainer=FakeTrainer(0, 3)).train_dataloader()


def test_a_decoder_that_is_not_installed_is_no_damage_of_the_data(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"data\.decoder=decord: is not installed"):
        data_of(corpus, decoder="decord")
