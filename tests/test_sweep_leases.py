"""A trial has one worker at a time, and one that died is replaced exactly once."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from emohead.trainers.sweeps.leases import Leases, read


def hold(folder: Path, number: int, taken) -> None:
    assert Leases(folder).take(number)
    taken.set()
    time.sleep(100)


def elsewhere(folder: Path, name: str = "other", **times: float) -> Leases:
    """The leases as a worker on another machine has them."""
    leases = Leases(folder, **times)
    leases.owner = replace(leases.owner, host=name, born=f"another-boot pid:[1] {name}")
    return leases


def test_one_worker_holds_a_lease(tmp_path: Path):
    first, second = elsewhere(tmp_path), Leases(tmp_path)
    lease = first.take(3)
    assert lease
    assert second.take(3) is None
    lease.release()
    assert second.take(3)


def test_the_lease_of_a_process_that_died_is_taken_at_once(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    taken = context.Event()
    process = context.Process(target=hold, args=(tmp_path, 0, taken))
    process.start()
    assert taken.wait(60)
    leases = Leases(tmp_path)
    assert leases.take(0) is None
    assert not leases.undecided(0)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert leases.take(0)


def test_a_worker_elsewhere_counts_as_dead_when_it_is_silent(tmp_path: Path):
    alive, here = elsewhere(tmp_path, beat=0.05), Leases(tmp_path, silence=0.4)
    lease = alive.take(0)
    assert lease
    assert here.take(0) is None
    assert here.undecided(0)
    time.sleep(0.8)
    assert here.take(0) is None
    assert not here.undecided(0)
    lease._done.set()  # it stops to touch its lease
    time.sleep(0.1)
    assert here.take(0) is None
    time.sleep(0.6)
    assert here.take(0)


def test_of_many_that_find_a_dead_lease_one_takes_it(tmp_path: Path):
    dead = elsewhere(tmp_path, "dead", beat=100.0)
    assert dead.take(0)
    found = [elsewhere(tmp_path, f"host{number}", silence=0.1) for number in range(8)]
    assert not any(leases.take(0) for leases in found)
    time.sleep(0.3)
    start = threading.Barrier(len(found))

    def take(leases: Leases) -> bool:
        start.wait()
        return leases.take(0) is not None

    with ThreadPoolExecutor(len(found)) as pool:
        assert sum(pool.map(take, found)) == 1


def test_a_worker_that_was_taken_for_dead_learns_of_it(tmp_path: Path):
    first, second = elsewhere(tmp_path, beat=0.3), Leases(tmp_path)
    lease = first.take(0)
    assert lease
    second.path(0).unlink()
    other = second.take(0)
    assert other
    assert lease.lost.wait(5)
    lease.release()
    held = read(second.path(0))
    assert held
    assert held.token == other.token


def test_an_unreadable_lease_is_replaced_after_a_while(tmp_path: Path):
    leases = Leases(tmp_path, silence=0.2)
    leases.path(0).write_text("")
    assert leases.take(0) is None
    assert leases.undecided(0)
    time.sleep(0.4)
    assert leases.take(0)
