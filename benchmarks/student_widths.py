"""Students of the teachers' widths and of others, with today's losses of the portrait encoder and without them.

    python benchmarks/student_widths.py DEMO [--work runs/student_widths] [--steps 220] [--results] [key=value ...]

DEMO is the folder of an `emohead demo`: its corpus, and its stages as teachers. Of each student, on people who took no
part in training: how far the points lie from the true ones that it sees in a portrait, in pixels of a picture of 256;
PSNR; and how sharp its frames are beside its teacher's (1: as sharp). Portraits are of other clips where they can be.

"Without" is a student whose encoder is taught by the coefficients of the portrait alone, through which the drawing's
gradient goes too, and that starts from any tensor of its teacher's that happens to have the same shape.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from emohead.datamodules.batch import Batch
from emohead.datamodules.config import DataConfig
from emohead.datamodules.module import TalkingFaceData
from emohead.models.face import FaceGenerator, to_float
from emohead.models.face_loss import region_loss
from emohead.models.talker import Talker
from emohead.trainers import distill
from emohead.trainers.distill import DistillStage, drawn, pyramid_distance
from emohead.trainers.metrics import PIXELS, psnr, sharpness
from emohead.trainers.run.train import train
from tables import put_into_results
from torch import Tensor, nn

WIDTHS = {
    "the teacher's": "[64,64,48,24,16]",
    "smaller": "[48,48,32,24,16]",
    "larger": "[96,80,64,32,16]",
}
FIGURES = ("points_error", "psnr", "sharpness")


def losses_before(self: DistillStage, batch: Batch) -> dict[str, Tensor]:
    student = self.network.face
    with torch.no_grad():
        taught = drawn(self.teachers.face, batch["portrait"], batch["target_motion"])
    features = student.encode_portrait(batch["portrait"])
    frame, target = student(features, batch["target_motion"]).frame.float(), to_float(batch["target"])
    motion = student.normalise(features.motion) - student.normalise(batch["portrait_motion"])
    coefficients = motion.abs().mean() + (features.identity - batch["portrait_identity"]).abs().mean()
    return {
        "coefficients_loss": 0.5 * coefficients,
        "frame_loss": pyramid_distance(frame, taught),
        "true_frame_loss": pyramid_distance(frame, target),
        "region_loss": region_loss(frame, target, batch["target_landmarks"]),
    }


def copy_tensors(student: nn.Module, teacher: nn.Module) -> None:
    own, given = student.state_dict(), teacher.state_dict()
    student.load_state_dict(own | {n: t for n, t in given.items() if n in own and own[n].shape == t.shape})


WAYS = {"with": (DistillStage.face_losses, distill.copy_matching), "without": (losses_before, copy_tensors)}


def taught(run: Path, way: str, settings: list[str]) -> FaceGenerator:
    export = run / "export" / "talker.safetensors"
    if not export.exists():
        DistillStage.face_losses, distill.copy_matching = WAYS[way]  # type: ignore[method-assign, assignment]
        train("distill", [Path("distill-debug")], [*settings, f"run={run}"])
    return Talker.load(export).face


@torch.no_grad()
def figures(student: FaceGenerator, teacher: FaceGenerator, data: TalkingFaceData) -> dict[str, float]:
    """Means over the clips, a pair each."""
    found: dict[str, list[Tensor]] = {name: [] for name in FIGURES}
    for batch in data.val_dataloader():
        features, target = student.encode_portrait(batch["portrait"]), to_float(batch["target"])
        true = student.points(batch["portrait_identity"], batch["portrait_motion"])
        error = student.points(features.identity, features.motion) - true
        frame, other = (drawn(face, batch["portrait"], batch["target_motion"]) for face in (student, teacher))
        found["points_error"].append(error.norm(dim=-1).mean(dim=1) * PIXELS / 2)
        found["psnr"].append(psnr(frame, target))
        found["sharpness"].append(sharpness(frame, other.clamp(-1, 1)))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/student_widths"))
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "student_widths.json")
    parser.add_argument("--results", action="store_true", help="write the table of docs/results.md")
    parser.add_argument("settings", nargs="*", help="key=value for all trainings")
    options = parser.parse_args()
    exports = {kind: options.demo / kind / "export" / f"{kind}.safetensors" for kind in ("emotion", "motion", "face")}
    settings = [f"data.shards=[{options.demo / 'data'}]", *(f"{kind}={file}" for kind, file in exports.items())]
    settings += [f"trainer.max_steps={options.steps}", f"trainer.val_every={options.steps}", "tracking.wandb=disabled"]
    teacher = FaceGenerator.from_checkpoint(exports["face"]).eval()
    data = TalkingFaceData("face", DataConfig(shards=[str(options.demo / "data")], val_splits=["test"], num_workers=0))
    rows: list[dict[str, Any]] = []
    for width, channels in WIDTHS.items():
        for way in WAYS:
            run = options.work / f"{width.split()[-1].strip(chr(39))}-{way}"
            student = taught(run, way, [*settings, f"network.face.channels={channels}", *options.settings])
            rows.append({"widths": width, "channels": channels, "losses": way, **figures(student, teacher, data)})
            print(json.dumps(rows[-1]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"steps": options.steps, "rows": rows}, indent=1) + "\n")
    if options.results:
        put_into_results("student_widths", table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| student's channels | losses of the encoder | points, pixels of 256 | PSNR | sharpness beside the teacher's |"
    ]
    lines.append("|---|---|---:|---:|---:|")
    for row in rows:
        shown = f"{row['points_error']:.2f} | {row['psnr']:.2f} dB | {row['sharpness']:.2f}"
        lines.append(f"| {row['channels']} ({row['widths']}) | {row['losses']} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
