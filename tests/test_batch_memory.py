"""The memory of batches: used again when nothing refers to a batch, never while something does."""

import gc
from pathlib import Path

import pytest
import torch
from emohead.datamodules.stream import memory as stream_memory
from emohead.datamodules.stream.memory import BatchMemory, MadeBatch, Slot

from .shard_clips import write_clips
from .stream_data import data_of


def made(memory: BatchMemory, value: int, size: int = 100) -> MadeBatch:
    slot = memory.take()
    slot.array("picture", (2, 4, 4, 3), "uint8")[:] = value
    slot.stack("motion", [torch.full((size,), float(value)).numpy()] * 2)
    slot.keep("key", ["a", "b"])
    return memory.finish(slot)


def lies_in(slot: Slot, tensor: torch.Tensor) -> bool:
    return 0 <= tensor.data_ptr() - slot.memory.data_ptr() < max(1, slot.size)


def test_a_slot_is_used_again_when_its_batch_is_gone() -> None:
    memory = BatchMemory()
    made(memory, 0).open()  # the first one only tells how large slots have to be
    places = set()
    for value in range(5):
        batch = made(memory, value).open()
        assert batch["picture"].shape == (2, 3, 4, 4)
        assert (batch["picture"] == value).all()
        assert batch["key"] == ["a", "b"]
        places.add(batch["picture"].data_ptr())
        del batch
    assert len(places) == 1


def test_a_view_of_a_tensor_keeps_the_whole_batch() -> None:
    memory = BatchMemory()
    made(memory, 0).open()
    first = made(memory, 1).open()
    kept = first["motion"][1:, ::2]
    del first
    gc.collect()
    later = [made(memory, value).open() for value in (2, 3)]
    assert (kept == 1).all()
    assert [float(batch["motion"].mean()) for batch in later] == [2.0, 3.0]
    assert len(memory.slots) == 3


def test_a_larger_batch_gets_its_room() -> None:
    memory, rooms = BatchMemory(), []
    for size in (10, 10, 1000, 1000, 10):
        batch = made(memory, 7, size).open()
        assert batch["motion"].shape == (2, size)
        assert (batch["motion"] == 7).all()
        (slot,) = memory.slots
        rooms.append((slot.size, lies_in(slot, batch["motion"]), lies_in(slot, batch["picture"])))
        del batch
    small, large = 128 + 128, 128 + 8000  # bytes: pictures of 96 and motion of 80 or 8000, in lines of 64
    assert rooms == [
        (0, False, False),  # nothing is known yet
        (small, True, True),
        (small, False, True),  # what does not fit has memory of its own
        (large, True, True),
        (large, True, True),
    ]


def test_workers_lend_the_same_memory_again_and_kept_batches_stay_as_they_are(tmp_path: Path) -> None:
    write_clips(tmp_path, counts={"train": 6})
    loader = data_of(tmp_path, stage="face", num_workers=1).train_dataloader()
    plain = iter(data_of(tmp_path, stage="face", num_workers=0).train_dataloader())
    kept = []
    for number, batch in zip(range(12), loader, strict=False):
        expected = next(plain)
        assert torch.equal(batch["portrait"], expected["portrait"])
        if number % 4 == 0:
            kept.append((batch["target"], expected["target"].clone()))
    assert all(torch.equal(a, b) for a, b in kept)


def test_without_room_to_share_batches_come_through_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a container with a small /dev/shm: a worker that wrote there would be ended by SIGBUS."""
    write_clips(tmp_path / "data", counts={"train": 6})
    batches = []
    for room in (None, 1000):
        monkeypatch.setattr(stream_memory, "room_for_sharing", lambda room=room: room)
        data = data_of(tmp_path / "data", num_workers=2, stage="face")
        loader = iter(data.train_dataloader())
        batches.append([next(loader) for _ in range(4)])
        del loader
    for shared, piped in zip(*batches, strict=True):
        assert shared.keys() == piped.keys()
        for name, value in shared.items():
            assert torch.equal(value, piped[name]) if isinstance(value, torch.Tensor) else value == piped[name], name
            assert not isinstance(value, torch.Tensor) or value.stride() == piped[name].stride()
    assert capfd.readouterr().err.count("docker run --shm-size") == 1


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/job/step", {"job/memory.max": "9000000", "job/memory.current": "4000000", "job/step/memory.max": "max"}),
        ("4:memory:/j", {"memory/j/memory.limit_in_bytes": "9000000", "memory/j/memory.usage_in_bytes": "4000000"}),
    ],
)
def test_the_memory_of_a_job_or_container_is_what_its_groups_leave(
    tmp_path: Path, own: str, files: dict[str, str]
) -> None:
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content + "\n")
    (tmp_path / "own").write_text(own + "\n")
    assert stream_memory.available_memory(tmp_path / "groups", tmp_path / "own") == 5_000_000
