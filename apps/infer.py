"""`emohead infer`: files in, a video out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datamodules.media.portrait import crop_portrait
from ..datamodules.media.sound import read_audio
from ..datamodules.media.write import write_video
from ..datamodules.prompts import class_prompt
from ..datamodules.sample import FPS, SAMPLES_PER_FRAME
from ..models.emotion import blend, with_intensity
from ..models.errors import UserError, printable
from ..models.face import to_pictures
from ..models.lock import locked
from ..models.talker import PROVENANCE, Talker
from ..trainers.run.cpu import spare_cpu
from .progress import Show, progress_bar

CANCELLED = 1e-3  # length of a mixture of unit vectors, the largest share being 1, below which it is only rounding
MAX_INTENSITY = 1000.0


@dataclass
class Emotion:
    """The sources of the emotion, and how strong it is."""

    texts: Sequence[str] = ()
    images: Sequence[Path] = ()
    audios: Sequence[Path] = ()
    weights: Sequence[float] = ()  # of texts, images and audios in this order; empty: all the same
    intensity: float = 1.0  # 0 neutral, 1 as described, more exaggerates

    def __post_init__(self) -> None:
        count = len(self.texts) + len(self.images) + len(self.audios)
        if not count:
            raise UserError("emotion", "give --text, --image or --audio, or several to mix")
        if not all(text.strip() for text in self.texts):
            raise UserError("--text", "empty", "describe the emotion, such as 'a slightly sad face'")
        if self.weights and len(self.weights) != count:
            raise UserError("--weights", f"{len(self.weights)} of them for {count} emotions", "give one for each")
        if not all(map(math.isfinite, self.weights)):
            raise UserError("--weights", "give finite numbers")
        if not abs(self.intensity) <= MAX_INTENSITY:
            raise UserError(f"--intensity {self.intensity:g}", f"must be from -{MAX_INTENSITY:g} to {MAX_INTENSITY:g}")
        if self.weights and not any(self.weights):
            raise UserError("--weights", "all of them are 0", "give the emotions their shares, such as 2,1")

    def embed(self, talker: Talker, crop: bool) -> torch.Tensor:
        """One unit vector (1, E)."""
        found = [talker.emotion_from_text(*self.texts)] if self.texts else []
        found += [talker.emotion_from_image(_picture(path, talker.size, crop)) for path in self.images]
        found += [talker.emotion_from_speech(torch.from_numpy(read_audio(path))[None]) for path in self.audios]
        emotions = torch.cat(found)  # (N, E)
        shares = torch.tensor(self.weights or [1.0] * len(emotions), dtype=torch.float64)
        weights = (shares / shares.abs().max()).to(emotions)
        if (weights @ emotions).norm() < CANCELLED:
            raise UserError("--weights", "the emotions cancel each other out", "give them other shares, such as 2,1")
        emotion = blend(emotions, weights)
        return with_intensity(emotion, talker.emotion_from_text(class_prompt("neutral")), self.intensity)

    def describe(self) -> str:
        names = [*self.texts, *(path.name for path in (*self.images, *self.audios))]
        parts = [f"{w:g} x {n}" for n, w in zip(names, self.weights, strict=True)] if self.weights else names
        return " + ".join(parts) + (f", intensity {self.intensity:g}" if self.intensity != 1 else "")


def run_infer(
    checkpoint: Path,
    *,
    portrait: Path,
    speech: Path,
    emotion: Emotion,
    out: Path,
    seed: int = 0,
    still: bool = False,
    blinks: bool = True,
    relative: bool = False,
    crop: bool = True,
    device: str = "auto",
    show: Show | None = None,
) -> None:
    """Write the video of `portrait` saying `speech`, as long as the speech to within one frame.

    Args:
        device: cpu, cuda, cuda:1, …; auto is a GPU if there is one.
        show: called with frames done, frames in all and a note, in place of a progress bar.

    Raises:
        UserError: an unreadable file; not exactly one face in a picture; no such device.
    """
    if out.suffix.lower() != ".mp4":
        raise UserError(out, "the video is written as .mp4", "name it so")
    if printable(out) != str(out):  # libavformat takes no other
        raise UserError(out, "its path is not UTF-8", "choose one that is")
    where = device_of(device)
    if where.type == "cpu":
        spare_cpu()
    talker = Talker.load(checkpoint).to(where)
    waveform = read_audio(speech)
    face = _picture(portrait, talker.size, crop)
    with torch.inference_mode():
        wanted, comment = emotion.embed(talker, crop), f"emotion: {emotion.describe()}"
        moves: Any = {"seed": seed, "still": still, "blinks": blinks, "relative": relative}
        with locked(out.parent, out.name):
            write_talking_video(talker, face, waveform, wanted, out, comment=comment, show=show, **moves)


def write_talking_video(
    talker: Talker,
    portrait: torch.Tensor,
    waveform: np.ndarray,
    emotion: torch.Tensor,
    out: Path,
    *,
    seed: int = 0,
    still: bool = False,
    blinks: bool = True,
    relative: bool = False,
    comment: str = "",
    show: Show | None = None,
) -> None:
    """Animate `portrait` uint8 (1, 3, S, S) with `waveform` (N,) and `emotion` (1, E), and mux the speech in.

    seed, still, blinks, relative: see `Talker.animate`.
    """
    moves: Any = {"seed": seed, "still": still, "blinks": blinks, "relative": relative}
    speech = torch.from_numpy(waveform)[None]
    num_frames = math.ceil(len(waveform) / SAMPLES_PER_FRAME)  # silence fills the last one
    out.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar(out.name, num_frames, show) as advance:

        def frames():
            for chunk in talker.animate(portrait, speech, emotion, **moves):
                for frame in to_pictures(chunk):
                    yield frame
                    advance(1)

        write_video(
            out, frames(), waveform, fps=FPS, metadata={"comment": f"{PROVENANCE}. {comment}", "title": out.stem}
        )


def device_of(name: str) -> torch.device:
    """The device that --device names; raises UserError if this machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # meta computes nothing that could be read back
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise UserError(f"--device {name}", f"cannot be used here ({reason})", "give auto, cpu or cuda") from None
    return device


def _picture(path: Path, size: int, crop: bool) -> torch.Tensor:
    """An image file as uint8 (1, 3, S, S)."""
    return torch.from_numpy(crop_portrait(path, size, detect=crop)).permute(2, 0, 1)[None]
