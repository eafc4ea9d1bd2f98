"""Checks a data set byte by byte."""

from pathlib import Path

from ...models.errors import UserError
from ..jobs import Lost, Progress, no_progress, run_jobs
from .check_clip import Checker, Job
from .check_files import Records, compare_folder, compare_index, compare_manifest
from .reader import ClipReader

JOB_SECONDS = 120.0  # the check of a clip may take, and as long again as its bytes take at the slowest
SLOWEST = 1e6  # bytes a second


def verify_shards(
    folder: Path | str,
    *,
    workers: int = 0,  # processes; 0: this one, which a decoder that crashes takes along
    decoder: str = "pyav",
    patience: float = JOB_SECONDS,
    progress: Progress = no_progress,
) -> list[str]:
    """Compare every checksum, decode every member, and return the problems found, one line each.

    With `workers`, clips are shared out one by one, and one that crashes or hangs its process is a problem like others.
    Raises UserError if the folder is no data set or its face model is not the one of its manifest.
    """
    reader = ClipReader(folder, decoder)
    _ = reader.face_model
    jobs, records, found = _plan(reader)
    checks = run_jobs(
        Checker(Path(folder), decoder), jobs, workers=workers, patience=lambda job: patience + job.bytes / SLOWEST
    )
    for done, (job, result) in enumerate(checks, start=1):
        if isinstance(result, Lost):
            shard = reader.files.address(reader.manifest.shards[job.shard].name)
            key = "" if job.row is None else f"{records[job.shard][job.row]['key']}: "
            result = [f"{shard}: {key}its check was lost: {result.reason}; copy or prepare the shard again"]
        found += [(job, problem) for problem in result]
        progress(done, len(jobs), "verify")
    found.sort(key=lambda item: (item[0].shard, -1 if item[0].row is None else item[0].row))
    return compare_folder(reader) + compare_manifest(reader, records) + [problem for _, problem in found]


def _plan(reader: ClipReader) -> tuple[list[Job], Records, list[tuple[Job, str]]]:
    """The jobs, the indexes that can be read, and the problems of the others."""
    jobs: list[Job] = []
    records: Records = {}
    found = []
    for number, shard in enumerate(reader.manifest.shards):
        tar = Job(number, None, shard.bytes)
        jobs.append(tar)
        try:
            records[number] = reader.shard(number).records
            found += [(tar, problem) for problem in compare_index(reader, number)]
        except UserError as error:
            found.append((tar, str(error)))
            continue
        sizes = [sum(size for _, size, _ in record["members"].values()) for record in records[number]]
        jobs += [Job(number, row, size) for row, size in enumerate(sizes)]
    return jobs, records, found
