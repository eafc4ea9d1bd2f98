"""`emohead slurm pipeline`: the whole chain as jobs, of which only those are submitted that are missing.

A stage is finished when its export is there. One that is queued or running under its name is left alone, unless it
waits for a job that failed and is submitted again: so the same command repairs a chain that broke.
"""

import sys
from pathlib import Path

from ...models.errors import UserError
from ...trainers.all_stages import STAGES
from ...trainers.stage import Stage, Start
from .job import Queued, Slurm, log_option, mark
from .prepare import PASSES, submit_passes
from .request import Request
from .train import training

PREPARE = "prepare"  # the part of the chain before the stages
MAKERS = {stage.kind: stage.name for stage in STAGES.values()}  # of exports, by their kind


def submit_chain(request: Request, *, dry_run: bool) -> None:
    """Submit what is neither finished nor queued nor running, and link the result into the folder."""
    check_starts(request)
    chain = Chain(request, Slurm(dry_run=dry_run))
    result = request.out / "talker.safetensors"
    if not dry_run:
        (request.out / "logs").mkdir(parents=True, exist_ok=True)
        link(result, chain.export_of(MAKERS["talker"]))
    chain.prepare()
    for stage in STAGES.values():
        chain.train(stage)
    print(f"the result: {result}", file=sys.stderr)


def check_starts(request: Request) -> None:
    """Refuse words for what the chain itself hands from stage to stage."""
    for stage in STAGES.values():
        for start in stage.starts_from:
            if start.needed and request.gives(stage.name, start.key):
                raise UserError(f"{start.key}=", f"is set by this command: {stage.name} starts from the chain's export")


def link(result: Path, export: Path) -> None:
    """A link, which leads nowhere until the last job has ended."""
    if not result.exists():
        result.unlink(missing_ok=True)
        result.symlink_to(export.relative_to(result.parent))


def tell(part: str, state: str) -> None:
    print(f"{part}: {state}", file=sys.stderr)


class Chain:
    """The jobs of one chain: those that are there, and those that this call submits."""

    def __init__(self, request: Request, slurm: Slurm) -> None:
        self.request = request
        self.slurm = slurm
        self.queue = slurm.queue()
        self.jobs: dict[str, str] = {}  # part of the chain -> id of the job that it waits for
        self.anew: set[str] = set()  # the parts that this call has submitted

    def prepare(self) -> None:
        """Submit the preparation, if one was asked for and the data set is not there."""
        preparation = self.request.preparation
        if preparation is None:
            return
        data = preparation.data
        *before, last = (self.queue.get(mark(name, data)) for name in PASSES)
        if preparation.finished:
            tell(PREPARE, f"finished, {data}")
        elif last:
            tell(PREPARE, f"job {last.id} is queued or running")
            self.jobs[PREPARE] = last.id
        elif broken := next(filter(None, before), None):
            problem = f"still prepares {data}, but what follows on it is gone"
            raise UserError(f"job {broken.id}", problem, "scancel it, or wait for it")
        else:
            self.jobs[PREPARE] = submit_passes(preparation, self.slurm, logs=self.request.out / "logs")
            self.anew.add(PREPARE)

    def train(self, stage: type[Stage]) -> None:
        """Submit a stage, if it is neither finished nor queued nor running."""
        export = self.export_of(stage.name)
        needs = [PREPARE, *(MAKERS[start.kind] for start in self.starts(stage))]
        job = self.queue.get(mark(stage.name, self.run_of(stage.name)))
        if export.is_file():
            tell(stage.name, f"finished, {export}")
        elif job and not self.waits_in_vain(job, needs):
            tell(stage.name, f"job {job.id} is queued or running")
            self.jobs[stage.name] = job.id
        else:
            if job:
                self.slurm.cancel(job.id)
            self.jobs[stage.name] = self.submit(stage, [self.jobs[need] for need in needs if need in self.jobs])
            self.anew.add(stage.name)

    def starts(self, stage: type[Stage]) -> list[Start]:
        """The exports of this chain that a stage starts from; one that may be left out only if the words give it."""
        return [start for start in stage.starts_from if start.needed or self.request.gives(stage.name, start.key)]

    def waits_in_vain(self, job: Queued, needs: list[str]) -> bool:
        """Whether a job waits for one that failed: this call has submitted that again."""
        return job.pending and not self.anew.isdisjoint(needs)

    def submit(self, stage: type[Stage], after: list[str]) -> str:
        name, preparation = stage.name, self.request.preparation
        arguments = [name, "-c", self.request.config_of(name), f"run={self.run_of(name)}"]
        arguments += [f"{s.key}={self.export_of(MAKERS[s.kind])}" for s in stage.starts_from if s.needed]
        if preparation:
            arguments.append(f"data.shards=[{preparation.data}]")
        options = []
        for word in self.request.words_of(name):
            if word.startswith("--"):
                options.append(word)
            else:
                arguments += ["-c", word] if word.endswith(".yaml") and "=" not in word else [word]
        options.append(log_option(self.request.out / "logs", f"{name}-%j.out"))
        return self.slurm.submit(training(arguments, options, after))

    def run_of(self, stage: str) -> Path:
        return self.request.out / stage

    def export_of(self, stage: str) -> Path:
        return self.run_of(stage) / "export" / f"{STAGES[stage].kind}.safetensors"
