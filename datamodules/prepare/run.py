"""From videos to a packed data set, in three passes: track every face, fit the face model and plan, crop and pack.

Each pass leaves its work in small finished files (work.py): a run that was killed goes on where it was, N
processes on N machines can each do their part of a pass, and the result is the same to the byte.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ...models.face_model import FaceModel
from ...models.lock import locked
from ..dataset.manifest import load_manifest, publish
from ..dataset.reader import ClipReader
from ..dataset.tally import Tally
from ..jobs import Lost, Progress, no_progress, one_thread, run_jobs
from ..sample import ClipInfo, Rejected
from ..tracking.tracker import NAME as TRACKER
from .bfm09 import check_files
from .fit import Plan, inputs_digest, load_plan, make_plan, refuse_all
from .gates import SILENT_CODES
from .listing import Source, SourceList
from .pack import PackedShard, PackJob, pack_jobs, pack_shard, read_packed
from .track import Track, track_source
from .work import PrepareConfig, WorkFolder, describe, track_key

PASSES = ("track", "fit", "pack")
MAX_TRACKING = 3600.0  # seconds for one source; a decoder that hangs must not hold up the night


@dataclass
class PrepareReport:
    """The outcome of a preparation: clips kept and rejected, and what is left to do."""

    out: Path
    kept: list[ClipInfo] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # wall time of each pass of this run
    frames: int = 0  # tracked, those of rejected clips included
    open: str = ""  # what is left to do, if other passes or parts have to follow; empty: the data set is finished


def prepare_sources(
    listing: SourceList,
    out: Path | str,
    config: PrepareConfig,
    *,
    workers: int = 0,  # processes; 0: this one, which a decoder that crashes takes along
    only: str | None = None,
    part: tuple[int, int] = (1, 1),
    progress: Progress = no_progress,
) -> PrepareReport:
    """Run the passes, or `only` one of them and of that one part (i of n), and say what came out.

    The same call again goes on where the last one was killed. Raises UserError if the pass before is not finished, if
    `out` holds another data set or the work of other options, or if no clip is left.
    """
    _check(listing, config, only, part)
    run = _Run(listing, WorkFolder(out), config, workers, part, progress)
    if run.work.finished:
        return run.known()
    if only in (None, PASSES[0]):
        run.work.open()
    begun = run.work.root.is_dir()  # else the pass will say which one comes before it
    with locked(run.work.root, f"part-{part[0]}-of-{part[1]}", run.work.out) if begun else nullcontext():
        return _passes(run, only, part)


def _passes(run: "_Run", only: str | None, part: tuple[int, int]) -> PrepareReport:
    if part[1] == 1:
        run.work.drop_partials()
    run.refuse_other_options()
    try:
        passes = dict(zip(PASSES, (run.track, run.fit, run.pack), strict=True))
        for name in PASSES if only is None else (only,):
            started = time.monotonic()
            with one_thread():
                passes[name]()
            run.report.seconds[name] = time.monotonic() - started
    except FileNotFoundError:
        if not run.work.finished:  # by another part, which has tidied up meanwhile
            raise
        return run.known()
    return run.report


def _check(listing: SourceList, config: PrepareConfig, only: str | None, part: tuple[int, int]) -> None:
    config.check()
    if not listing.sources:
        refuse_all(listing.rejected)
    if config.coefficients is not None:
        check_files(config.coefficients, listing.sources)
    if only is not None and only not in PASSES:
        raise UserError(f"--pass {only}", f"choose one of {', '.join(PASSES)}")
    if not 1 <= part[0] <= part[1]:
        raise UserError(f"--part {part[0]}/{part[1]}", f"parts are 1/{part[1]} to {part[1]}/{part[1]}")
    if only is None and part != (1, 1):
        raise UserError(f"--part {part[0]}/{part[1]}", f"needs --pass, one of {', '.join(PASSES)}")


class _Run:
    """One call of `prepare_sources`."""

    def __init__(
        self,
        listing: SourceList,
        work: WorkFolder,
        config: PrepareConfig,
        workers: int,
        part: tuple[int, int],
        tell: Progress,
    ) -> None:
        self.listing, self.work, self.config = listing, work, config
        self.workers, self.tell = workers, tell
        self.first, self.parts = part[0] - 1, part[1]
        self.keys = [track_key(source) for source in listing.sources]
        self.report = PrepareReport(work.out)

    # -- the passes

    def track(self) -> None:
        """Track the sources of this part that have no track yet."""
        own = range(len(self.keys))[self.first :: self.parts]
        missing = set(self.work.untracked(self.keys))
        jobs = [(self.listing.sources[n], self.keys[n], self.work.out) for n in own if self.keys[n] in missing]
        done, rejected = len(own) - len(jobs), 0
        self.tell(done, len(own), "track")
        for job, result in run_jobs(_track, jobs, workers=self.workers, patience=lambda job: MAX_TRACKING):
            if isinstance(result, Lost):  # the file brought down a decoder
                _write_track(job, Rejected(job[0].name, f"tracking {result.reason}", "crashed"))
            done, rejected = done + 1, rejected + (result is not True)
            self.tell(done, len(own), f"track, {rejected} rejected" if rejected else "track")
        self.report.open = "next: --pass fit, when all parts of --pass track are done"

    def fit(self) -> None:
        """Plan and face model, by the first part."""
        if self.first:
            self.report.open = f"nothing to do for part {self.first + 1}: part 1 fits"
            return
        self._require_tracks()
        if self._plan() is None:
            make_plan(self.listing, self.keys, self.work, self.config, self.tell)
        self.report.open = "next: --pass pack"

    def pack(self) -> None:
        """Pack the shards of this part that are not finished, and finish the data set if none is missing then."""
        self._require_tracks()
        plan = self._plan()
        if plan is None:
            raise UserError(self.work.out, "its plan is missing: run the same command with --pass fit first")
        jobs = pack_jobs(plan, self.listing.sources, self.keys, self.work, self.listing.dataset, self.config)
        self._pack_all(jobs[self.first :: self.parts])
        packed = [read_packed(self.work, job.name, job.plan) for job in jobs]
        missing = sum(shard is None for shard in packed)
        if missing:
            self.report.open = f"{missing} of {len(jobs)} shards are left to other parts"
        else:
            finished = [shard for shard in packed if shard is not None]
            self._finish(plan, finished)

    def _pack_all(self, jobs: Sequence[PackJob]) -> None:
        todo = [job for job in jobs if read_packed(self.work, job.name, job.plan) is None]
        total = sum(len(job.pieces) for job in jobs)
        done, rejected = total - sum(len(job.pieces) for job in todo), 0

        def tell(count: int) -> None:
            self.tell(done + count, total, f"pack, {rejected} rejected" if rejected else "pack")

        tell(0)
        lost = []
        for job, packed in run_jobs(pack_shard, todo, workers=self.workers, beat=tell):
            if isinstance(packed, Lost):  # the other shards are packed before this is said
                lost.append(f"{job.name} ({packed.reason}; its videos: {_names(job)})")
            else:
                rejected += len(packed.rejected)
        if lost:
            raise UserError(
                self.work.out,
                f"packing failed for {', '.join(lost)}",
                "run the same command again, and if it fails again, take those videos out",
            )
        tell(total - done)

    def _finish(self, plan: Plan, packed: list[PackedShard]) -> None:
        """Publish what was packed; no tar is read again. Another part that does so as well writes the same bytes."""
        late = [item for shard in packed for item in shard.rejected]
        ordered = sorted([*plan.rejected, *late], key=lambda item: item[:2])
        rejected = [*self.listing.rejected, *(clip for _, _, clip in ordered)]
        kept = [info for shard in packed for info in shard.kept]
        if not kept:
            refuse_all(rejected)
        tally = Tally()
        for shard in packed:
            tally.merge(shard.tally)
        model = FaceModel.load(self.work.face_model)
        manifest = tally.manifest(
            codec=self.config.codec,
            size=self.config.size,
            face_model=model,
            rejected=rejected,
            preparation=plan.described | {"frames": plan.frames, "tracker": TRACKER},
        )
        publish(self.work.out, manifest, model, partial=self.work.partial)
        self.work.close()
        self.report = PrepareReport(self.work.out, kept, rejected, self.report.seconds, plan.frames)

    # -- what is there already

    def known(self) -> PrepareReport:
        """The report of a data set that is finished; raises UserError if it is another data set."""
        manifest = load_manifest(self.work.out)
        same = describe(self.listing, self.config)
        decided = SILENT_CODES & manifest.rejected_counts.keys()  # before the option `silent` such clips were rejected
        told = {"silent": "reject" if decided else same["silent"]} | manifest.preparation
        if {name: told.get(name) for name in same} != same:
            raise UserError(self.work.out, "already holds a data set", "choose another folder or delete it")
        self.work.close()  # the last run may have been killed before it could
        reader = ClipReader(self.work.out)
        kept = [reader.info(key) for key in reader.keys(None)]
        return PrepareReport(self.work.out, kept, manifest.rejected, {}, manifest.preparation["frames"])

    def refuse_other_options(self) -> None:
        """Shards of two kinds must not meet in one data set."""
        plan = load_plan(self.work)
        if plan is None or "holdout_emotions" not in plan.described:  # none, or one of tracks that are made anew
            return
        for name, value in describe(self.listing, self.config).items():
            if name not in ("sources", "sources_sha256") and plan.described.get(name) != value:
                raise UserError(
                    self.work.out,
                    f"was begun with {name} {_short(plan.described.get(name), value)}, not "
                    f"{_short(value, plan.described.get(name))}",
                    f"repeat that command, or delete {self.work.plan} to fit and pack anew",
                )

    def _plan(self) -> Plan | None:
        """The plan, if it was made of these options and sources."""
        plan = load_plan(self.work)
        return plan if plan and plan.inputs == inputs_digest(self.listing, self.keys, self.config) else None

    def _require_tracks(self) -> None:
        missing = len(self.work.untracked(self.keys))
        if missing:
            raise UserError(
                self.work.out,
                f"{missing} of {len(self.keys)} sources are not tracked: run the same command with --pass track first",
            )


def _short(value: Any, other: Any) -> Any:
    """The entries of a table that differ in the other one; anything else as it is."""
    if isinstance(value, dict) and isinstance(other, dict):
        return {name: item for name, item in value.items() if other.get(name) != item}
    return value


def _names(job: PackJob, most: int = 5) -> str:
    names = [source.name for source in job.sources.values()]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _track(job: tuple[Source, str, Path]) -> bool:
    """Track one source, write down the result and say whether it is a track. Runs in worker processes."""
    return _write_track(job, track_source(job[0]))


def _write_track(job: tuple[Source, str, Path], result: Track | Rejected) -> bool:
    _, key, out = job
    work = WorkFolder(out)
    if isinstance(result, Rejected):
        work.write(work.tracks / f"{key}.json", asdict(result))
        return False
    path = work.tracks / f"{key}.npz"
    result.save(path, work.partial(path.name))
    return True
