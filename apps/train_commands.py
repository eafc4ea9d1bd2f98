"""The commands about training. Each imports what it needs when it runs."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..models.errors import UserError
from .arguments import Configs, Json, StageName, Words, examples
from .json_output import only_json, print_json

training = typer.Typer()


@training.command(
    epilog=examples(
        "emohead train emotion -c emotion-debug 'data.shards=[data/mine]' run=runs/emotion",
        "emohead train motion -c motion-debug 'data.shards=[data/mine]' emotion=emotion.safetensors",
        "emohead train face --keys optimizer trainer",
        "emohead train face -c face-base optimizer.lr=1e-4 --print-config",
    )
)
def train(
    stage: StageName,
    overrides: Annotated[
        Words, typer.Argument(help="key=value, such as optimizer.lr=1e-4; with --keys parts, such as optimizer.")
    ] = None,
    config: Configs = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved configuration as YAML and start nothing.")
    ] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="List all keys, or those of some parts, and start nothing.")
    ] = False,
) -> None:
    """Train one stage and export it. The same command again resumes it; exit code 75 asks for that."""
    if keys or print_config:
        from .settings import show_config, show_keys

        return show_keys(stage, overrides or []) if keys else show_config(stage, config or [], overrides or [])
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM))  # until it can save
    from ..trainers.run.preemption import Preempted
    from ..trainers.run.pruning import Pruned
    from ..trainers.run.train import train as train_stage
    from ..trainers.sweeps.trial import watch

    try:
        path = train_stage(stage, config or [], overrides or [], watch=watch())
    except Pruned as pruned:
        typer.echo(str(pruned))
        return
    except Preempted as preempted:
        print(f"emohead: {preempted}", file=sys.stderr)
        raise typer.Exit(preempted.exit_code) from None
    if path:
        typer.echo(f"exported {path}")


@training.command(epilog=examples("emohead stages", "emohead stages --json"))
def stages(json: Json = False) -> None:
    """The stages in the order of the chain: what each starts from and what it exports.

    A key with a question mark may be left out.
    """
    with only_json(json):
        from ..trainers.all_stages import STAGES
    if json:
        print_json(
            [
                {"name": s.name, "kind": s.kind, "starts_from": [start._asdict() for start in s.starts_from]}
                for s in STAGES.values()
            ]
        )
        return
    for stage in STAGES.values():
        starts = [f"{start.key}={start.kind}{'' if start.needed else '?'}" for start in stage.starts_from]
        typer.echo(f"{stage.name:<10}-> {stage.kind}.safetensors   {' '.join(starts)}")


@training.command(
    epilog=examples("emohead doctor face -c face-base 'data.shards=[data/mine]' trainer.nodes=2 trainer.devices=4")
)
def doctor(
    stage: StageName,
    overrides: Annotated[Words, typer.Argument(help="key=value, as for train.")] = None,
    config: Configs = None,
    json: Json = False,
) -> None:
    """Check a run in seconds before it starts: settings, inputs, data, folders, job, GPUs. Takes train's arguments."""
    from .doctor import diagnose

    wrong = diagnose(stage, config or [], overrides or [], json=json)
    if wrong:
        raise UserError("doctor", f"{wrong} settings are wrong" if wrong > 1 else "1 setting is wrong")


@training.command(
    epilog=examples("emohead export runs/face face.safetensors", "emohead export runs/face face.safetensors --last")
)
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors to write.")],
    last: Annotated[bool, typer.Option("--last", help="The newest checkpoint instead of the best on val.")] = False,
) -> None:
    """Export the best checkpoint of a run by its stage's metric on val; the newest if it was never validated."""
    from ..trainers.run.export import export_run
    from ..trainers.run.train import quieten

    quieten()
    told = export_run(run, out, last=last)
    why = f"the best {told['metric']}, {told['value']:.5g}" if told["chosen"] == "best" else "the newest"
    typer.echo(f"exported {out}: step {told['step']}, {why}")
