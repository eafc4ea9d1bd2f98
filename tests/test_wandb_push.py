"""What `emohead wandb push` would send of real run folders, and how it refuses to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from emohead.models.checkpoint import load_checkpoint
from emohead.models.errors import UserError
from emohead.trainers.run.wandb_push import alias, plan

from .conftest import refused

STAGES = ("emotion", "motion", "face", "distill")


@pytest.fixture
def chain(demo: Path, tmp_path: Path) -> Path:
    """The runs of the tiny chain, as if `wandb sync` had sent them: it leaves a mark beside each file."""
    for stage in STAGES:
        shutil.copytree(demo / stage, tmp_path / stage, ignore=shutil.ignore_patterns("checkpoints"))
        for folder in (tmp_path / stage / "wandb").glob("offline-run-*"):
            for file in folder.glob("run-*.wandb"):
                file.with_name(f"{file.name}.synced").touch()
        marks = tmp_path / stage / "wandb" / "sent.json"
        marks.write_text(marks.read_text().replace(str(demo), str(tmp_path)))
    return tmp_path


def test_parents_go_first_and_are_named_by_checksum(chain: Path) -> None:
    planned = plan([chain / stage for stage in reversed(STAGES)])
    order = [push.run.name for push in planned]
    assert sorted(order) == sorted(STAGES)
    assert order.index("emotion") < order.index("motion") < order.index("distill") > order.index("face")
    made = {f"{export.kind}:{alias(export.sha256)}" for push in planned for export in push.exports}
    distill = planned[-1]
    assert len(distill.edges()) == 3
    assert set(distill.edges()) < made
    (talker,) = distill.exports
    checkpoint = load_checkpoint(chain / "distill" / "export" / "talker.safetensors")
    assert talker.metadata["sha256"] == checkpoint.sha256
    assert talker.metadata["provenance"] == checkpoint.provenance
    run_id = (chain / "distill" / "wandb" / "id").read_text()
    assert talker.aliases(run_id) == ["latest", f"sha256-{checkpoint.sha256[:16]}", f"run-{run_id}"]
    assert (distill.run_id, distill.project) == (run_id, "emohead")


def test_runs_that_cannot_be_pushed_yet(chain: Path) -> None:
    next((chain / "motion" / "wandb").glob("offline-run-*/*.synced")).unlink()
    with pytest.raises(UserError, match=f"not sent yet; first: wandb sync .*{chain}/motion/wandb/offline-run-"):
        plan([chain / "motion"])
    shutil.rmtree(chain / "face" / "export")
    with pytest.raises(UserError, match="has no export yet"):
        plan([chain / "face"])
    with pytest.raises(UserError, match="has no W&B run"):
        plan([chain])


def push(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "NETRC"))}
    command = [sys.executable, "-m", "emohead.apps.cli", "wandb", "push", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=alone | variables)


def test_without_a_key_or_a_network_it_is_one_line(chain: Path) -> None:
    refused(push(chain / "emotion", HOME=str(chain)), "wandb login", "WANDB_API_KEY")
    nobody = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "3"}
    refused(push(chain / "emotion", **nobody), "W&B did not take it", "network")
    told = push("--dry-run", chain / "motion", chain / "emotion").stdout.splitlines()
    assert len(told) == 3, "two exports and an edge"
    assert told[0].startswith(f"{chain / 'emotion' / 'export' / 'emotion.safetensors'} -> emotion:sha256-")
    assert told[-1].startswith(f"{chain / 'motion'} <- emotion:sha256-")
