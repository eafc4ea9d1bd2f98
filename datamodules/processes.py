"""A pool of spawned processes whose members go when the process that started them is killed."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import connection
from multiprocessing.sharedctypes import Synchronized
from typing import Any, TypeVar

import cv2

Job = TypeVar("Job")
Result = TypeVar("Result")

BEAT = 0.5  # seconds between looks at the counter
_counter: Any = None


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    beat: Callable[[int], None] = lambda count: None,
) -> Iterator[Result]:
    """The results as they come, from this process where `workers` is 0 or 1.

    `beat` hears now and then how often the jobs have called `count_one` so far.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from _run_here(function, jobs, beat)
        return
    # Spawned: MediaPipe and FFmpeg hold threads, which a fork would copy in the middle of their work.
    context = multiprocessing.get_context("spawn")
    counter: Synchronized[int] = context.Value("q", 0)
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_start, initargs=(counter,))
    try:
        waiting = {pool.submit(function, job) for job in jobs}
        while waiting:
            done, waiting = wait(waiting, timeout=BEAT, return_when=FIRST_COMPLETED)
            beat(counter.value)
            for job in done:
                yield job.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def count_one() -> None:
    """Say from within a job that one more part of it is done."""
    if callable(_counter):
        _counter()
    elif _counter is not None:
        with _counter.get_lock():
            _counter.value += 1


def _run_here(function: Callable[[Job], Result], jobs: Sequence[Job], beat: Callable[[int], None]) -> Iterator[Result]:
    global _counter
    count = 0

    def heard() -> None:
        nonlocal count
        count += 1
        beat(count)

    for job in jobs:
        _counter = heard
        try:
            result = function(job)
        finally:
            _counter = None
        yield result


def _start(counter: Any) -> None:
    global _counter
    _counter = counter
    cv2.setNumThreads(1)
    threading.Thread(target=follow_parent, daemon=True).start()


def follow_parent() -> None:
    """For a thread of a worker: ends it when its parent was killed, or it would go on, or wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
