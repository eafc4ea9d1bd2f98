"""Jobs in processes: results, counting, errors, crashes, hangs, and no orphans."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from emohead.datamodules.jobs import Lost, count_one, run_jobs
from emohead.models.errors import UserError


def twice(number: int) -> int:
    for _ in range(number):
        count_one()
    if number == 13:
        raise UserError("thirteen", "unlucky")
    return 2 * number


def behave(how: str) -> str:
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "leave":
        os._exit(3)
    if how == "hang":
        time.sleep(100)
    if how == "raise":
        raise KeyError("a fault of the program")
    return how


def sleep_long(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    time.sleep(100)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_and_counts_arrive(workers: int) -> None:
    counts: list[int] = []
    results = run_jobs(twice, [1, 2, 3], workers=workers, beat=counts.append)
    assert sorted(results) == [(1, 2), (2, 4), (3, 6)]
    assert counts == sorted(counts)
    assert counts[-1] == 6
    assert workers or counts == [1, 2, 3, 4, 5, 6]
    with pytest.raises(UserError, match="unlucky"):
        list(run_jobs(twice, [13, 13], workers=workers))


def test_one_job_that_crashes_or_hangs_takes_no_other_along() -> None:
    jobs = ["fine", "crash", "leave", "hang", "raise", "well"]
    results = dict(run_jobs(behave, jobs, workers=2, patience=lambda job: 1.0 if job == "hang" else 60.0))
    assert results.pop("fine") == "fine"
    assert results.pop("well") == "well"
    reasons = {job: lost.reason for job, lost in results.items() if isinstance(lost, Lost)}
    assert reasons == {
        "crash": "ended by SIGSEGV",
        "leave": "ended with code 3",
        "hang": "no answer within 1 s",
        "raise": "KeyError: 'a fault of the program'",
    }


def test_children_of_a_killed_process_go(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.test_crew import run_jobs, sleep_long\n"
    code += "if __name__ == '__main__': list(run_jobs(sleep_long, [Path(sys.argv[1])] * 3, workers=2))"
    (tmp_path / "main.py").write_text(code)
    pids = tmp_path / "pids"
    pids.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])}
    with subprocess.Popen([sys.executable, str(tmp_path / "main.py"), str(pids)], env=environment) as process:
        deadline = time.monotonic() + 60
        while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    workers = [int(path.name) for path in pids.iterdir()]
    assert len(workers) == 2
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
