"""Workers: results, counting, errors, and no orphans."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from emohead.datamodules.processes import count_one, run_jobs


def twice(number: int) -> int:
    for _ in range(number):
        count_one()
    if number == 13:
        raise ValueError("unlucky")
    return 2 * number


def sleep_long(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    time.sleep(100)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_and_counts_arrive(workers: int) -> None:
    counts: list[int] = []
    assert sorted(run_jobs(twice, [1, 2, 3], workers, counts.append)) == [2, 4, 6]
    assert counts == sorted(counts)
    assert workers == 2 or counts == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="unlucky"):
        list(run_jobs(twice, [13, 13], workers))


def test_workers_of_a_killed_process_go(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.test_processes import run_jobs, sleep_long\n"
    code += "if __name__ == '__main__': list(run_jobs(sleep_long, [Path(sys.argv[1])] * 3, 2))"
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
