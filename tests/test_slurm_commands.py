"""`emohead slurm`: the commands that it gives to sbatch, and what it refuses. No cluster is needed."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from emohead.apps.cli import app
from emohead.apps.slurm.job import SCRIPTS, Slurm, job_name, mark
from emohead.models.errors import UserError

from .conftest import ROOT, emohead, refused
from .test_readme import commands

STAGES = ["emotion", "motion", "face", "distill"]
Asked = Callable[..., list[list[str]]]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which holds a data set, videos and a sweep, on a machine without SLURM."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").touch()
    (tmp_path / "videos").mkdir()
    (tmp_path / "lr.yaml").touch()
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("EMOHEAD", "/bin/true")
    return tmp_path


@pytest.fixture
def asked(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> Asked:
    """Words of `emohead slurm` -> the words of each command that a dry run prints."""

    def ask(*words: str) -> list[list[str]]:
        before = set(elsewhere.rglob("*"))
        app(["slurm", *words, "--dry-run"], standalone_mode=False)
        assert set(elsewhere.rglob("*")) == before, "a dry run makes nothing"
        return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]

    return ask


def squeue(folder: Path, *rows: str) -> None:
    """Put a squeue on the path that prints these rows: id, state, name."""
    command = folder / "bin" / "squeue"
    command.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    command.chmod(0o755)


def script_of(command: list[str]) -> str:
    return next(Path(word).name for word in command if word.endswith(".sbatch"))


def arguments_of(command: list[str]) -> list[str]:
    at = next(place for place, word in enumerate(command) if word.endswith(".sbatch"))
    return command[at + 1 :]


def option(command: list[str], name: str) -> str | None:
    """The value of an option that counts: the last one."""
    return next((word.partition("=")[2] for word in reversed(command) if word.partition("=")[0] == name), None)


# -- one stage


def test_a_stage_is_one_command(asked: Asked) -> None:
    stage = ["face", "-c", "face-base", "data.shards=[a b]", "run=runs/face-x"]
    (command,) = asked("train", "--nodes=2", "--gpus-per-node", "4", "--", *stage)
    assert command[:3] == ["sbatch", "--parsable", "--export=ALL,EMOHEAD=/bin/true"]
    assert command[3].startswith("--job-name=face-x-")
    assert command[4:9] == ["--ntasks-per-node=4", "--cpus-per-task=9", "--nodes=2", "--gpus-per-node", "4"]
    assert command[9:] == [str(SCRIPTS / "train.sbatch"), *stage]
    (alone,) = asked("train", "face")
    assert option(alone, "--job-name") == f"face-runs-{mark('face', Path('runs/face'))}"
    assert alone[4:] == [command[9], "face"]


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        (["--gres=gpu:2"], "2"),
        (["--gres", "gpu:a100:3"], "3"),
        (["--gres=gpu"], "1"),
        (["--gres=gpu:4,nvme:100"], "4"),
        (["--gres", "nvme:100,gpu:a100:2(S:0-1)"], "2"),
        (["--gres=nvme:100"], None),
        (["--gpus-per-node=a100:8"], "8"),
        (["--gpus-per-node=0"], None),
        (["--gpus-per-node=4", "--ntasks-per-node=2"], "2"),
        (["--cpus-per-task", "4"], None),
    ],
)
def test_each_gpu_has_a_process(asked: Asked, options: list[str], tasks: str | None) -> None:
    (command,) = asked("train", *options, "--", "face")
    assert option(command, "--ntasks-per-node") == tasks


@pytest.mark.parametrize(
    ("words", "cpus"),
    [
        (["--gpus-per-node=4", "--", "face", "-c", "face-base"], "9"),
        (["--gpus-per-node=4", "--", "face", "--config=face-base", "data.num_workers=3"], "4"),
        (["--gpus-per-node=4", "--", "face", "-c", "face-base", "-c", "mine.yaml"], "6"),
        (["--gpus-per-node=4", "--cpus-per-task=12", "--", "face", "-c", "face-base"], "12"),
        (["--gpus-per-node=4", "--cpus-per-gpu=12", "--", "face", "-c", "face-base"], None),
        (["--gpus-per-node=4", "--", "face", "-c", "nowhere.yaml"], None),
        (["--gpus-per-node=4", "--", "face"], None),
        (["--", "face", "-c", "face-base"], None),
    ],
)
def test_a_process_of_a_gpu_has_a_cpu_for_each_of_its_workers(
    asked: Asked, elsewhere: Path, words: list[str], cpus: str | None
) -> None:
    (elsewhere / "mine.yaml").write_text("data:\n  num_workers: 5\n")
    (command,) = asked("train", *words)
    assert option(command, "--cpus-per-task") == cpus


def test_a_node_that_a_run_was_lost_on_twice_is_left_out(asked: Asked, elsewhere: Path) -> None:
    run = elsewhere / "runs" / "face"
    run.mkdir(parents=True)
    lost = [{"node": node, "job": "7", "restarts": n} for node, n in (("n1", 0), ("n2", 1), ("n1", 2), ("n3", 3))]
    (run / "lost_nodes.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lost))
    (command,) = asked("train", "face")
    assert option(command, "--exclude") == "n1"
    (command,) = asked("train", "--exclude=n9", "--", "face", "run=runs/other")
    assert option(command, "--exclude") == "n9"


def test_a_command_in_an_image_need_not_be_here(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOHEAD", "/in/the/image/emohead")
    monkeypatch.setenv("EMOHEAD_SRUN", "--container-image=emohead.sqsh")
    (command,) = asked("train", "--", "face")
    assert any("EMOHEAD=/in/the/image/emohead" in word for word in command)


def test_variables_that_a_job_is_given_are_kept(asked: Asked) -> None:
    for words in (["--export=ALL,NCCL_DEBUG=INFO"], ["--export", "ALL,NCCL_DEBUG=INFO"]):
        (command,) = asked("train", *words, "--", "face")
        assert command[2] == "--export=ALL,NCCL_DEBUG=INFO,EMOHEAD=/bin/true"
    (command,) = asked("train", "--export=NONE", "--", "face")
    assert command[2] == "--export=EMOHEAD=/bin/true"


def test_names_differ_in_the_eight_columns_of_squeue(asked: Asked) -> None:
    names = [option(command, "--job-name") for command in asked("pipeline", "runs/mead", "data.shards=[data]")]
    assert [name[:8] for name in names if name] == ["emo-mead", "mot-mead", "face-mea", "dis-mead"]
    assert job_name("track", "a set/of all", Path("x")).startswith("tra-a_set_of_all-")
    other = [option(command, "--job-name") for command in asked("pipeline", "mead", "data.shards=[data]")]
    assert not set(names) & set(other), "another folder of the same name"


def test_the_command_of_the_jobs_is_this_one(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMOHEAD")
    for folder, found in (("bin", "bin/emohead"), ("venv", "venv/emohead")):
        (elsewhere / folder).mkdir(exist_ok=True)
        (elsewhere / folder / "emohead").touch(0o755)
        monkeypatch.setattr("sys.argv", [str(elsewhere / "venv" / "emohead")])
        monkeypatch.setattr("sys.executable", str(elsewhere / "nowhere" / "python"))
        assert Slurm(dry_run=True).emohead == str(elsewhere / found)
    monkeypatch.setenv("EMOHEAD", "nowhere/emohead")
    with pytest.raises(UserError, match="set EMOHEAD"):
        Slurm(dry_run=True)


# -- preparation


@pytest.mark.parametrize("dashes", [["--partition=cpu", "--"], ["--"], []])
def test_a_preparation_is_three_arrays(asked: Asked, dashes: list[str]) -> None:
    passes = asked("prepare", "40", *dashes, "folder", "videos", "data/new", "--size", "64")
    assert [option(command, "--array") for command in passes] == ["1-40", "1-1", "1-40"]
    waits = [option(command, "--dependency") for command in passes]
    assert waits == [None, "afterok:ID_OF_TRACK", "afterok:ID_OF_FIT"]
    assert [option(command, "--kill-on-invalid-dep") for command in passes] == [None, "yes", "yes"]
    assert [option(command, "--partition") for command in passes] == ["cpu" if len(dashes) == 2 else None] * 3
    given = ["folder", "videos", "data/new", "--size", "64", "--pass"]
    assert [arguments_of(command) for command in passes] == [[*given, name] for name in ("track", "fit", "pack")]
    assert {script_of(command) for command in passes} == {"prepare.sbatch"}


# -- the chain


def test_the_chain_on_prepared_data(asked: Asked, elsewhere: Path) -> None:
    words = ["--gpus-per-node=2", "face:--nodes=2", "seed=3", "face:mine.yaml", "face:trainer.max_steps=5"]
    Path("mine.yaml").touch()
    jobs = asked("pipeline", "out", *words, "data.shards=[data,s3://bucket/set]", "--config=small")
    assert [arguments_of(job)[0] for job in jobs] == STAGES
    out = elsewhere / "out"
    assert arguments_of(jobs[2]) == [
        *("face", "-c", "face-small", f"run={out}/face", "seed=3", "-c", "mine.yaml", "trainer.max_steps=5"),
        "data.shards=[data,s3://bucket/set]",
    ]
    exports = {name: f"{name}={out}/{name}/export/{name}.safetensors" for name in STAGES[:3]}
    assert exports["emotion"] in arguments_of(jobs[1])
    assert set(exports.values()) < set(arguments_of(jobs[3]))
    assert [option(job, "--nodes") for job in jobs] == [None, None, "2", None]
    assert [option(job, "--output") for job in jobs] == [f"{out}/logs/{name}-%j.out" for name in STAGES]
    waits = [option(job, "--dependency") for job in jobs]
    assert waits == [None, "afterok:ID_OF_EMOTION", None, "afterok:ID_OF_EMOTION:ID_OF_MOTION:ID_OF_FACE"]


def test_the_chain_from_videos(asked: Asked, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preparation = ["2", "--partition", "cpu", "--", "folder", "videos", "new", "--size", "64"]
    jobs = asked("pipeline", "out", "--", *preparation)
    assert [script_of(job) for job in jobs] == ["prepare.sbatch"] * 3 + ["train.sbatch"] * 4
    assert [option(job, "--output") for job in jobs[:1]] == [f"{elsewhere}/out/logs/track-%A_%a.out"]
    for job in jobs[3:]:
        assert f"data.shards=[{elsewhere}/new]" in arguments_of(job)
        assert option(job, "--dependency").split(":")[1] == "ID_OF_PACK"
    assert arguments_of(jobs[3])[:3] == ["emotion", "-c", "emotion-base"]
    (elsewhere / "new").mkdir()
    (elsewhere / "new" / "manifest.json").touch()
    (elsewhere / "videos").rmdir()
    app(["slurm", "pipeline", "out", "--dry-run", "--", *preparation], standalone_mode=False)
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 4
    assert "no such file" not in told.err, "a finished data set needs its videos no more"


def test_the_emotion_that_judges_faces_is_waited_for(asked: Asked, elsewhere: Path) -> None:
    export = f"face:perceptual.emotion={elsewhere}/out/emotion/export/emotion.safetensors"
    jobs = asked("pipeline", "out", "data.shards=[data]", export)
    assert option(jobs[2], "--dependency") == "afterok:ID_OF_EMOTION"


def test_what_is_finished_queued_or_running_is_not_submitted(asked: Asked, elsewhere: Path) -> None:
    export = elsewhere / "out" / "emotion" / "export" / "emotion.safetensors"
    export.parent.mkdir(parents=True)
    export.touch()
    running = job_name("face", "of another name", elsewhere / "out" / "face")
    squeue(elsewhere, "12 PENDING something else", f"7 RUNNING {running}")
    motion, distill = asked("pipeline", "out", "data.shards=[data]")
    assert [arguments_of(job)[0] for job in (motion, distill)] == ["motion", "distill"]
    assert option(motion, "--dependency") is None
    assert option(distill, "--dependency") == "afterok:ID_OF_MOTION:7"


def test_a_job_that_waits_for_a_failed_one_is_submitted_again(asked: Asked, elsewhere: Path) -> None:
    names = {stage: job_name(stage, "out", elsewhere / "out" / stage) for stage in STAGES}
    squeue(elsewhere, f"3 PENDING {names['motion']}", f"4 RUNNING {names['face']}", f"5 PENDING {names['distill']}")
    jobs = asked("pipeline", "out", "data.shards=[data]")
    assert [arguments_of(job)[0] if job[0] == "sbatch" else job for job in jobs] == [
        "emotion",
        ["scancel", "3"],
        "motion",
        ["scancel", "5"],
        "distill",
    ]
    assert option(jobs[-1], "--dependency") == "afterok:ID_OF_EMOTION:ID_OF_MOTION:4"


def test_a_preparation_that_runs_is_waited_for(asked: Asked, elsewhere: Path) -> None:
    command = ["pipeline", "out", "--", "2", "folder", "videos", "new"]
    squeue(elsewhere, f"9 RUNNING {job_name('fit', 'new', elsewhere / 'new')}")
    with pytest.raises(UserError, match="job 9: still prepares"):
        asked(*command)
    squeue(elsewhere, f"8 PENDING {job_name('pack', 'new', elsewhere / 'new')}")
    assert [option(job, "--dependency").split(":")[1] for job in asked(*command)] == ["8"] * 4


def test_a_size_that_a_stage_lacks(asked: Asked) -> None:
    jobs = asked("pipeline", "out", "data.shards=[data]", "--config", "base-512")
    chosen = ["emotion-base", "motion-base", "face-base-512", "distill-base-512"]
    assert [arguments_of(job)[2] for job in jobs] == chosen


# -- a sweep


def test_a_sweep_is_an_array(asked: Asked, elsewhere: Path) -> None:
    words = ["lr.yaml", "--tasks", "8", "--at-once=2", "--gpus-per-node=2", "--time", "1:00:00", "--", "seed=3"]
    (command,) = asked("sweep", *words)
    folder = elsewhere / "runs" / "sweeps" / "lr"
    assert script_of(command) == "sweep.sbatch"
    assert arguments_of(command) == ["lr.yaml", "--out", str(folder), "seed=3"]
    assert option(command, "--array") == "1-8%2"
    assert option(command, "--output") == f"{folder}/logs/%A_%a.out"
    assert option(command, "--ntasks-per-node") == "2"
    assert option(command, "--job-name")[:9] == "swe-lr-" + mark("sweep", folder)[:2]
    (command,) = asked("sweep", "lr.yaml", "--out", "mine")
    assert option(command, "--array") == "1-1"
    assert arguments_of(command) == ["lr.yaml", "--out", str(elsewhere / "mine")]


@pytest.mark.parametrize(
    ("words", "cpus"),
    [
        (["face-base", "--gpus-per-node=4"], "9"),
        (["face-base", "--gpus-per-node=4", "--", "data.num_workers=3"], "4"),
        (["face-base", "--gpus-per-node=4", "--cpus-per-task=12"], "12"),
        (["mine.yaml", "--gpus-per-node=1"], "6"),
        (["lr.yaml", "--gpus-per-node=4"], None),
        (["face-base"], None),
    ],
)
def test_a_trial_on_a_gpu_has_a_cpu_for_each_of_its_workers(
    asked: Asked, elsewhere: Path, words: list[str], cpus: str | None
) -> None:
    trial = "emohead, train, face, -c, face-base, data.num_workers=5, '${args_no_hyphens}'"
    (elsewhere / "mine.yaml").write_text(f"command: [{trial}]\n")
    (command,) = asked("sweep", *words)
    assert option(command, "--cpus-per-task") == cpus


# -- what is documented


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("emohead slurm")])
def test_a_documented_command_submits_jobs(asked: Asked, line: str) -> None:
    Path("sweep.yaml").touch()
    assert {job[0] for job in asked(*shlex.split(line)[2:])} == {"sbatch"}


# -- what is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train"], "no stage"),
        (["train", "fase"], "did you mean face"),
        (["train", "--nodes", "2", "--"], "no stage"),
        (["train", "--nodes=2", "face"], "comes before the stage"),
        (["train", "--nodes=2", "4", "--", "face"], "'4'"),
        (["train", "--gpus=4", "--", "face"], "--gpus-per-node=4"),
        (["train", "-G4", "--", "face"], "--gpus-per-node=4"),
        (["train", "--gpus-per-node=four", "--", "face"], "four"),
        (["prepare"], "PARTS"),
        (["prepare", "two", "folder", "videos", "new"], "'two'"),
        (["prepare", "2", "folder", "videos"], "2 of kind, source and data set"),
        (["prepare", "2", "--qos", "x", "--"], "0 of kind"),
        (["prepare", "2", "--array=1", "--", "folder", "videos", "new"], "--array=1"),
        (["prepare", "2", "mede", "videos", "new"], "did you mean mead"),
        (["prepare", "2", "folder", "nowhere", "new"], "nowhere: no such file"),
        (["pipeline", "--nodes=2", "out"], "--nodes=2: comes before the folder"),
        (["pipeline", "lr.yaml", "data.shards=[data]"], "lr.yaml: is a file"),
        (["pipeline", "out"], "no data"),
        (["pipeline", "out", "data.shards=[data,nowhere]"], "data.shards=[nowhere]"),
        (["pipeline", "out", "--", "2", "folder"], "1 of kind"),
        (["pipeline", "out", "--", "2", "folder", "nowhere", "new"], "nowhere: no such file"),
        (["pipeline", "out", "--config=bas", "data.shards=[data]"], "did you mean base"),
        (["pipeline", "out", "face:--config=debug", "data.shards=[data]"], "one for all stages"),
        (["pipeline", "out", "--nodes", "2", "data.shards=[data]"], "'2'"),
        (["pipeline", "out", "fase:--nodes=2", "data.shards=[data]"], "did you mean face"),
        (["pipeline", "out", "face:run=elsewhere", "data.shards=[data]"], "face:run=elsewhere: is set"),
        (["pipeline", "out", "--job-name=x", "data.shards=[data]"], "--job-name=x: is set"),
        (["pipeline", "out", "motion:emotion=x", "data.shards=[data]"], "emotion=: is set"),
        (["pipeline", "out", "face:nowhere.yaml", "data.shards=[data]"], "nowhere.yaml: no such file"),
        (["pipeline", "out", "face:--gpus=3", "data.shards=[data]"], "--gpus-per-node=4"),
        (["pipeline", "out", "data.shards=[data]"], "squeue: no such command here"),
        (["sweep", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["sweep", "lr.yaml", "seed=3"], "'seed=3'"),
        (["sweep", "lr.yaml", "--", "seed"], "'seed'"),
        (["sweep", "lr.yaml", "--array=1-3"], "--array=1-3"),
        (["sweep", "lr.yaml", "--out", "lr.yaml"], "is a file"),
    ],
)  # fmt: skip
def test_wrong_use_is_named_before_anything_is_made(elsewhere: Path, words: list[str], told: str) -> None:
    before = set(elsewhere.rglob("*"))
    with pytest.raises(UserError) as error:
        app(["slurm", *words], standalone_mode=False)
    assert told in str(error.value)
    assert set(elsewhere.rglob("*")) == before


def test_a_cluster_that_does_not_answer_is_one_line(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, said in (
        ("squeue", "squeue: error: Unable to contact slurm controller"),
        ("sbatch", "error: no account"),
    ):
        command = elsewhere / "bin" / name
        command.write_text(f"#!/bin/sh\necho {said} >&2\nexit 1\n")
        command.chmod(0o755)
    refused(emohead("slurm", "train", "face"), "sbatch", "no account", "--dry-run")
    with pytest.raises(UserError, match="Unable to contact slurm controller"):
        app(["slurm", "pipeline", "out", "data.shards=[data]"], standalone_mode=False)
    assert not (elsewhere / "out").exists()


def test_a_dry_run_only_tells_of_data_that_is_elsewhere(asked: Asked) -> None:
    assert len(asked("pipeline", "out", "data.shards=[nowhere]")) == 4
    assert len(asked("prepare", "2", "folder", "nowhere", "new")) == 3


# -- the scripts


@pytest.mark.parametrize("script", sorted((ROOT / "slurm").glob("*.*sh")) + sorted((ROOT / "slurm").glob("*.sbatch")))
def test_the_scripts_are_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("name", ["train", "prepare", "sweep"])
def test_a_script_that_is_no_job_says_who_submits_it(name: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = subprocess.run(["bash", ROOT / "slurm" / f"{name}.sbatch"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"emohead slurm {name} submits it" in done.stderr
