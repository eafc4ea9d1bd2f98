"""Where a run comes from."""

import subprocess
from pathlib import Path

import pytest
from emohead.trainers.run.origin import checkout, origin


def git(folder: Path, *arguments: str) -> str:
    named = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", "-C", folder, *named, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_checkout_has_a_commit_and_may_be_dirty(tmp_path: Path) -> None:
    clean, dirty, inside = (tmp_path / name for name in ("clean", "dirty", "clean/.venv/emohead"))
    for folder in (clean, dirty):
        git(tmp_path, "init", "-q", str(folder))
        (folder / "a.py").write_text("1\n")
        git(folder, "add", "a.py")
        git(folder, "commit", "-qm", "a")
    (dirty / "a.py").write_text("2\n")
    (clean / "notes").write_text("not in the repository\n")
    inside.mkdir(parents=True)
    assert checkout(clean) == {"commit": git(clean, "rev-parse", "HEAD"), "dirty": False}
    assert checkout(dirty) == {"commit": git(dirty, "rev-parse", "HEAD"), "dirty": True}
    assert checkout(inside) is None, "installed into a repository's environment"


def test_jobs_are_named_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "STEP_ID", "RESTART_COUNT", "JOB_NODELIST", "CLUSTER_NAME"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/emohead", "train", "face", "run=a b"])
    data = [{"folder": "mine", "sha256": "d1"}]
    plain = origin({"emotion": "e1"}, data)
    assert (plain["inputs"], plain["data"]) == ({"emotion": "e1"}, data)
    assert plain["command"] == "emohead train face 'run=a b'"
    assert "slurm" not in plain
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert origin({}, [])["slurm"] == {"job_id": "17", "restart_count": "2"}
