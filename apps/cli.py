"""The `emohead` command. Each command imports what it needs when it runs, so that `--help` answers at once."""

import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from ..models.errors import Failure, UserError, printable
from ..models.files import FULL, OF_THE_DISK
from .arguments import File, Files, Word, Words, examples
from .facemodel_commands import facemodel
from .prepare_commands import prepare
from .shards_commands import shards
from .slurm_commands import slurm

# The packages that commands import, by the extra of pyproject.toml that installs them.
EXTRAS = {
    "train": "pytorch_lightning lightning_fabric omegaconf deepspeed open_clip torchvision torchmetrics wandb fsspec",
    "prepare": "ai_edge_litert",
}
INTERRUPTED = 128 + signal.SIGINT  # exit code after Ctrl-C, as shells expect it
CONFIGS = Path(__file__).parent.parent / "configs"


def interrupt(number: int, frame: Any) -> NoReturn:
    """Ctrl-C: a second one, of an impatient user, does not disturb the tidying up after the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


class Commands(typer.core.TyperGroup):
    """All commands together: Ctrl-C in any of them is one line and exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("emohead: stopped by Ctrl-C; the same command goes on", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    help="Train emotional talking faces: portrait + speech + emotion (text, image or audio) -> video.",
    epilog="Start with: emohead demo --out runs/demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(prepare, name="prepare")
app.add_typer(shards, name="shards")
app.add_typer(facemodel, name="facemodel")
app.add_typer(slurm, name="slurm")


def tell_version(asked: bool) -> None:
    if asked:
        typer.echo(version("emohead"))
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options of no command."""


Configs = Annotated[
    Files,
    typer.Option(
        "--config", "-c", help="YAML file or shipped name, such as emotion-debug; repeatable, later ones win."
    ),
]


# A stage ships a debug configuration, so its name is known here without any of its code.
STAGE_NAMES = sorted(path.stem.removesuffix("-debug") for path in CONFIGS.glob("*-debug.yaml"))
StageName = Annotated[str, typer.Argument(help=f"One of {', '.join(STAGE_NAMES)}; see `emohead stages`.")]


@app.command(epilog=examples("emohead demo --out runs/demo", "emohead demo --quick --out runs/quick"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, runs, videos and report.html.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of corpus and training.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less of everything, in a quarter of the time; says what it does not show.")
    ] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Two steps of each stage: shows that the chain works, not what it learns.")
    ] = False,
) -> None:
    """The whole chain on a made-up corpus, on a CPU, in minutes: corpus, four stages, videos, report.

    It says at the start how long it will take here. After Ctrl-C the same command resumes.
    """
    if quick and tiny:
        raise UserError("demo", "--quick and --tiny are two sizes", "give one of them")
    from .demo import run_demo
    from .demo_plan import FULL, QUICK, TINY

    run_demo(out, seed=seed, plan=TINY if tiny else QUICK if quick else FULL)


@app.command(
    epilog=examples(
        "emohead train emotion -c emotion-debug data.shards=[data/mine] run=runs/emotion",
        "emohead train motion -c motion-debug data.shards=[data/mine] emotion=runs/emotion/export/emotion.safetensors",
    )
)
def train(
    stage: StageName,
    overrides: Annotated[Words, typer.Argument(help="key=value, such as optimizer.lr=1e-4.")] = None,
    config: Configs = None,
) -> None:
    """Train one stage and export it. The same command again resumes it; exit code 75 asks for that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM))  # until it can save
    from ..trainers.run.preemption import Preempted
    from ..trainers.run.train import train as train_stage

    try:
        path = train_stage(stage, config or [], overrides or [])
    except Preempted as preempted:
        print(f"emohead: {preempted}", file=sys.stderr)
        raise typer.Exit(preempted.exit_code) from None
    if path:
        typer.echo(f"exported {path}")


@app.command(epilog=examples("emohead stages", "emohead stages --plain"))
def stages(
    plain: Annotated[bool, typer.Option("--plain", help="For scripts: name, kind of its export, KEY=KIND ...")] = False,
) -> None:
    """The stages in the order of the chain: what each starts from and what it exports.

    A key with a question mark may be left out.
    """
    from ..trainers.all_stages import STAGES

    for stage in STAGES.values():
        starts = [f"{start.key}={start.kind}{'' if start.needed else '?'}" for start in stage.starts_from]
        words = [stage.name, stage.kind, *starts]
        typer.echo(" ".join(words) if plain else f"{stage.name:<10}-> {stage.kind}.safetensors   {' '.join(starts)}")


@app.command(
    epilog=examples("emohead doctor face -c face-base data.shards=[data/mine] trainer.nodes=2 trainer.devices=4")
)
def doctor(
    stage: StageName,
    overrides: Annotated[Words, typer.Argument(help="key=value, as for train.")] = None,
    config: Configs = None,
) -> None:
    """Check a run in seconds before it starts: settings, inputs, data, folders, job, GPUs. Takes train's arguments."""
    from .doctor import diagnose

    wrong = diagnose(stage, config or [], overrides or [])
    if wrong:
        raise UserError("doctor", f"{wrong} settings are wrong" if wrong > 1 else "1 setting is wrong")


@app.command(epilog=examples("emohead export runs/face face.safetensors"))
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors to write.")],
) -> None:
    """Export the last checkpoint of a run."""
    from ..trainers.run.train import export_run

    export_run(run, out)
    typer.echo(f"exported {out}")


@app.command(
    epilog=examples("emohead evaluate runs/distill/export/talker.safetensors data/mine --split test --out runs/eval")
)
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="An exported stage or talker.")],
    data: Annotated[Path, typer.Argument(help="A prepared data set.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[File, typer.Option(help="Folder for metrics.json, metrics.csv and evaluation.html.")] = None,
    emotion: Annotated[File, typer.Option(help="Emotion checkpoint; needed for a motion stage.")] = None,
    jury: Annotated[
        File, typer.Option("--jury", "--critics", help="jury.safetensors of a motion run: sync and emotion of motion.")
    ] = None,
    unseen: Annotated[
        Word, typer.Option(help="Emotions to report apart, as fear,sad; default: those held out.")
    ] = None,
    teacher: Annotated[
        Files,
        typer.Option(help="Export of a stage that the talker learned from; all three, for their videos' figures."),
    ] = None,
    lpips: Annotated[File, typer.Option(help="ONNX: two pictures to their distance.")] = None,
    fid: Annotated[File, typer.Option(help="ONNX: 299 px picture to Inception features.")] = None,
    csim: Annotated[File, typer.Option(help="ONNX: ArcFace, aligned face to embedding.")] = None,
    syncnet: Annotated[File, typer.Option(help="Folder with face.onnx and audio.onnx of SyncNet.")] = None,
) -> None:
    """Metrics of a checkpoint on a split, and baselines beside them.

    LPIPS, FID, CSIM and SyncNet need networks that you bring as ONNX files (pip install 'emohead[judges]'); their
    inputs are described in trainers/evaluation/judges.py. Figures without their network are named as not measured.
    """
    from .evaluate import run_evaluation

    names = None if unseen is None else [name for name in unseen.split(",") if name]
    run_evaluation(
        checkpoint,
        data,
        split=split,
        out=out,
        emotion=emotion,
        jury=jury,
        unseen=names,
        teachers=teacher or [],
        weights={"lpips": lpips, "fid": fid, "csim": csim, "syncnet": syncnet},
    )


@app.command(
    epilog=examples(
        'emohead infer talker.safetensors --portrait me.jpg --speech hello.wav --text "a very happy face" --out me.mp4',
        "emohead infer talker.safetensors --portrait me.jpg --speech hello.wav --audio angry.wav --out me.mp4",
        "emohead infer talker.safetensors --portrait me.jpg --speech hello.wav --text happy --text surprised "
        "--weights 2,1 --intensity 1.3 --out me.mp4",
    )
)
def infer(
    checkpoint: Annotated[Path, typer.Argument(help="talker.safetensors")],
    portrait: Annotated[Path, typer.Option(help="An image with one face.")],
    speech: Annotated[Path, typer.Option(help="Speech, any common audio file.")],
    out: Annotated[Path, typer.Option(help="The .mp4 to write.")],
    text: Annotated[Words, typer.Option(help="Emotion as words; repeatable.")] = None,
    image: Annotated[Files, typer.Option(help="Emotion as a face; repeatable.")] = None,
    audio: Annotated[Files, typer.Option(help="Emotion as a voice; repeatable.")] = None,
    weights: Annotated[str, typer.Option(help="Of a mixture: 2,1 for texts, then images, then audios.")] = "",
    intensity: Annotated[float, typer.Option(help="0 neutral, 1 as described, more exaggerates.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of head motion and blinks.")] = 0,
    still: Annotated[bool, typer.Option(help="Keep the head still.")] = False,
    blinks: Annotated[bool, typer.Option(help="Blink, at chance moments.")] = True,
    crop: Annotated[bool, typer.Option(help="Find and crop the face; --no-crop takes pictures as they are.")] = True,
    device: Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu or cuda.")] = "auto",
) -> None:
    """Portrait + speech + emotion -> an H.264 video with the speech."""
    from .infer import Emotion, run_infer

    try:
        shares = [float(weight) for weight in weights.split(",")] if weights else []
    except ValueError:
        raise UserError(f"--weights {weights}", "give numbers with commas between, such as 2,1") from None
    run_infer(
        checkpoint,
        portrait=portrait,
        speech=speech,
        emotion=Emotion(text or [], image or [], audio or [], shares, intensity),
        out=out,
        seed=seed,
        still=still,
        blinks=blinks,
        crop=crop,
        device=device,
    )


def main() -> None:
    """Entry point: a wrong input is one line and exit code 2."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in a shell's background
        signal.signal(signal.SIGINT, interrupt)
    try:
        app(standalone_mode=True)
    except UserError as error:
        print(f"emohead: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # while the command was loaded
        sys.exit(INTERRUPTED)
    except Failure as failure:
        leave(" ".join(str(failure).split()), 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((name for name, packages in EXTRAS.items() if package in packages.split()), None)
        if extra is None:
            raise
        leave(f"this command needs {package}: pip install 'emohead[{extra}]'", 2)
    except OSError as error:
        if error.errno not in OF_THE_DISK or not (error.filename or error.errno in FULL):
            raise
        told = f"{printable(error.filename or 'the disk')}: {os.strerror(error.errno)}"
        if error.errno in FULL:
            leave(f"{told}; what was finished is kept, the same command goes on when there is room", 1)
        leave(told, 2)


def leave(told: str, code: int) -> NoReturn:
    """At once: an orderly exit would wait for the other ranks."""
    sys.stdout.flush()
    print(f"emohead: {told}", file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == "__main__":
    main()
