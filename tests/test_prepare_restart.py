"""Preparation in passes and parts: it goes on after a kill, and always makes the same set."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from emohead.datamodules.corpora.folder import read_folder
from emohead.datamodules.prepare.run import _Run, prepare_sources
from emohead.datamodules.prepare.work import PrepareConfig
from emohead.models.errors import UserError

from .talking_clips import SMALL, Talk, prepare_folder, snapshot, write_talks


def test_parts_in_any_order_make_the_same_set(tmp_path: Path, people: Path, undisturbed: Path) -> None:
    listing, out = read_folder(people), tmp_path / "out"

    def run(only: str, part: tuple[int, int]) -> str:
        return prepare_sources(listing, out, SMALL, only=only, part=part).open

    run("track", (2, 2))
    with pytest.raises(UserError, match="2 of 4 sources are not tracked: run the same command with --pass track first"):
        run("fit", (1, 1))
    run("track", (1, 2))
    with pytest.raises(UserError, match="run the same command with --pass fit first"):
        run("pack", (1, 3))
    assert "nothing to do for part 2" in run("fit", (2, 3))
    run("fit", (1, 3))
    assert "shards are left to other parts" in run("pack", (3, 3))
    assert not (out / "manifest.json").exists()
    run("pack", (1, 3))
    assert run("pack", (2, 3)) == ""
    assert snapshot(out) == snapshot(undisturbed)
    assert run("pack", (2, 3)) == "", "a part that comes late finds all done"


def test_workers_change_nothing(tmp_path: Path, people: Path, undisturbed: Path) -> None:
    prepare_sources(read_folder(people), tmp_path / "out", SMALL, workers=2)
    assert snapshot(tmp_path / "out") == snapshot(undisturbed)


def test_a_file_that_brings_its_decoder_down_costs_that_file(tmp_path: Path, spoken: list[Talk]) -> None:
    source, out, fatal = tmp_path / "in", tmp_path / "out", tmp_path / "in" / "m.mp4"
    names = (("a", 0), ("m", 4), ("z", 2))
    list(write_talks(source, [(name, (spoken[n][0][:30], spoken[n][1])) for name, n in names]))

    def crash() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for child in multiprocessing.active_children():
                if opened(child.pid or 0, fatal):
                    os.kill(child.pid or 0, signal.SIGSEGV)
                    return

    threading.Thread(target=crash, daemon=True).start()
    report = prepare_sources(read_folder(source), out, SMALL, workers=1)
    assert {info.source for info in report.kept} == {"a.mp4", "z.mp4"}
    (lost,) = report.rejected
    assert (lost.source, lost.reason, lost.code) == ("m.mp4", "tracking ended by SIGSEGV", "crashed")


def opened(process: int, path: Path) -> bool:
    """Whether a process has a file open right now."""
    with contextlib.suppress(OSError):
        return any(
            os.readlink(f"/proc/{process}/fd/{number}") == str(path) for number in os.listdir(f"/proc/{process}/fd")
        )
    return False


RUN = """
import sys
from pathlib import Path
from emohead.datamodules.corpora.folder import read_folder
from emohead.datamodules.prepare.run import prepare_sources
from emohead.datamodules.prepare.work import PrepareConfig
prepare_sources(read_folder(Path(sys.argv[1])), sys.argv[2], PrepareConfig(size=64, codec="mjpeg", clips_per_shard=1))
"""


def test_the_number_of_threads_changes_nothing(tmp_path: Path, people: Path) -> None:
    """Libraries of linear algebra sum in another order on more threads, and use a thread for each core."""
    for number in ("1", "2"):
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), number)
        command = [sys.executable, "-c", RUN, str(people), str(tmp_path / number)]
        subprocess.run(command, env=os.environ | threads, check=True)
    assert snapshot(tmp_path / "1") == snapshot(tmp_path / "2")


def killed_when(command: list[str], moment: Callable[[], bool]) -> bool:
    """Run a command and kill it (SIGKILL) at a moment; False if it ended before."""
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            if moment():
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.001)
    assert process.returncode == 0
    return False


def test_killed_at_any_moment_it_goes_on(tmp_path: Path, people: Path, undisturbed: Path) -> None:
    out, whole = tmp_path / "out", snapshot(undisturbed)
    command = [sys.executable, "-c", RUN, str(people), str(out)]
    rng = random.Random(0)
    moments = ["tracks/*.npz", "plan.json", "partial/*.tar.*", "packed/*.json"]
    tracked: dict[str, int] = {}
    for pattern in moments:
        pause = rng.uniform(0, 0.05)
        assert killed_when(command, lambda p=pattern, s=pause: any((out / ".work").glob(p)) and time.sleep(s) is None)
        times = {path.name: path.stat().st_mtime_ns for path in (out / ".work" / "tracks").glob("*.npz")}
        assert tracked.items() <= times.items(), "what was tracked is not tracked again"
        tracked = times
        visible = snapshot(out)
        assert visible.items() <= whole.items(), "what is visible is whole"
        assert "manifest.json" not in visible
    assert not killed_when(command, lambda: False)
    assert snapshot(out) == whole
    assert not (out / ".work").exists()
    assert not killed_when(command, lambda: False), "a finished set stays as it is"


@contextlib.contextmanager
def opened_files() -> Iterator[list[str]]:
    """The names of all files that this process opens within."""
    names: list[str] = []
    watching = True
    sys.addaudithook(  # for good: there is no way to remove one
        lambda event, details: names.append(Path(str(details[0])).name) if watching and event == "open" else None
    )
    yield names
    watching = False


def test_finishing_reads_no_tar(
    tmp_path: Path, people: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tars are overwritten with zeros before the data set is finished, and nothing is different."""
    listing, out = read_folder(people), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_finish", lambda self, plan, packed: None)
        prepare_sources(listing, out, SMALL)
    tars = sorted(out.glob("*.tar"))
    for tar in tars:
        tar.write_bytes(bytes(tar.stat().st_size))
    with opened_files() as opened:
        report = prepare_sources(listing, out, SMALL)
    assert "plan.json" in opened
    assert not [name for name in opened if name.endswith(".tar")]
    assert len(tars) == len(report.kept) == 3
    assert report.kept == prepare_sources(listing, undisturbed, SMALL).kept
    assert (out / "manifest.json").read_bytes() == (undisturbed / "manifest.json").read_bytes()
    assert (out / "facemodel.npz").read_bytes() == (undisturbed / "facemodel.npz").read_bytes()


def test_a_changed_source_is_tracked_anew(tmp_path: Path, spoken: list[Talk]) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    first, second, third = ((frames[:30], sound) for frames, sound in (spoken[0], spoken[2], spoken[4]))
    list(write_talks(source, [("a", first), ("b", second)]))
    for name in ("track", "fit"):
        prepare_sources(read_folder(source), out, SMALL, only=name)
    list(write_talks(source, [("b", third), ("c", second)]))
    with pytest.raises(UserError, match="2 of 3 sources are not tracked"):
        prepare_sources(read_folder(source), out, SMALL, only="pack")
    prepare_sources(read_folder(source), out, SMALL)
    prepare_sources(read_folder(source), tmp_path / "fresh", SMALL)
    assert snapshot(out) == snapshot(tmp_path / "fresh")


def test_another_command_on_the_same_folder_is_refused(tmp_path: Path, people: Path, undisturbed: Path) -> None:
    listing, out = read_folder(people), tmp_path / "out"
    other = PrepareConfig(size=96, codec="mjpeg", clips_per_shard=1)
    with pytest.raises(UserError, match="already holds a data set"):
        prepare_sources(listing, undisturbed, other)
    for name in ("track", "fit"):
        prepare_sources(listing, out, SMALL, only=name)
    with pytest.raises(UserError, match=r"begun with size 64, not 96; repeat that command, or delete .*plan\.json"):
        prepare_sources(listing, out, other)
    older = tmp_path / "older"  # begun when people were tracked and fitted in another way
    shutil.copytree(out, older)
    plan = json.loads((older / ".work" / "plan.json").read_text())
    del plan["described"]["holdout_emotions"]
    (older / ".work" / "plan.json").write_text(json.dumps(plan | {"inputs": "other"}))
    (out / ".work" / "plan.json").unlink()
    for folder in (out, older):
        assert prepare_sources(listing, folder, other).kept[0].size == 96
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "train-000003.tar").touch()
    with pytest.raises(UserError, match=r"holds train-000003\.tar of something else"):
        prepare_sources(listing, tmp_path / "taken", SMALL)


def test_a_finished_set_from_before_an_option_is_known_again(tmp_path: Path, people: Path, undisturbed: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["preparation"]["silent"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert len(prepare_sources(read_folder(people), out, SMALL).kept) == 3
    manifest["rejected_counts"]["no_audio"] = 1  # then it decided something
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="already holds a data set"):
        prepare_sources(read_folder(people), out, SMALL)
    assert len(prepare_sources(read_folder(people), out, replace(SMALL, silent="reject")).kept) == 3


def test_a_given_face_model_is_used(tmp_path: Path, people: Path, undisturbed: Path) -> None:
    model = undisturbed / "facemodel.npz"
    prepare_folder(people, tmp_path / "out", face_model=str(model))
    assert (tmp_path / "out" / "facemodel.npz").read_bytes() == model.read_bytes()
    with pytest.raises(UserError, match="no such face model"):
        prepare_folder(people, tmp_path / "new", face_model=str(tmp_path / "none.npz"))
    assert not (tmp_path / "new").exists()
