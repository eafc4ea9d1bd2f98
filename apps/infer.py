"""`emohead infer`: files in, a video out."""

from pathlib import Path

import numpy as np
import torch

from ..datamodules.media import read_audio, write_video
from ..datamodules.portrait import crop_portrait
from ..datamodules.sample import FPS, SAMPLES_PER_FRAME
from ..models.errors import UserError
from ..models.talker import Talker
from .progress import progress_bar

PROVENANCE = "AI-generated talking head made with emohead"


def run_infer(
    checkpoint: Path,
    *,
    portrait: Path,
    speech: Path,
    out: Path,
    text: str | None = None,
    image: Path | None = None,
    audio: Path | None = None,
    seed: int = 0,
    still: bool = False,
    crop: bool = True,
) -> None:
    """Write the video of `portrait` saying `speech`, as long as the speech to within one frame.

    Raises:
        UserError: not exactly one of text, image, audio; an unreadable file; not exactly one face in a picture.
    """
    if sum(given is not None for given in (text, image, audio)) != 1:
        raise UserError("emotion: give exactly one of --text, --image and --audio")
    if text is not None and not text.strip():
        raise UserError("--text: empty; describe the emotion, such as 'a slightly sad face'")
    if out.suffix.lower() != ".mp4":
        raise UserError(f"{out}: the video is written as .mp4; name it so")
    talker = Talker.load(checkpoint)
    waveform = read_audio(speech)
    face = _picture(portrait, talker.size, crop)
    with torch.inference_mode():
        if text is not None:
            emotion = talker.emotion_from_text(text)
        elif image is not None:
            emotion = talker.emotion_from_image(_picture(image, talker.size, crop))
        else:
            assert audio is not None
            emotion = talker.emotion_from_speech(torch.from_numpy(read_audio(audio))[None])
        source = text if text is not None else str((image or audio).name)  # type: ignore[union-attr]
        write_talking_video(talker, face, waveform, emotion, out, seed=seed, still=still, comment=f"emotion: {source}")


def write_talking_video(
    talker: Talker,
    portrait: torch.Tensor,
    waveform: np.ndarray,
    emotion: torch.Tensor,
    out: Path,
    *,
    seed: int = 0,
    still: bool = False,
    comment: str = "",
) -> None:
    """Animate `portrait` uint8 (1, 3, S, S) with `waveform` (N,) and `emotion` (1, E), and mux the speech in."""
    speech = torch.from_numpy(waveform)[None]
    num_frames = max(1, round(len(waveform) / SAMPLES_PER_FRAME))
    out.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar(out.name, num_frames) as advance:

        def frames():
            for chunk in talker.animate(portrait, speech, emotion, seed=seed, still=still):
                for frame in chunk.permute(0, 2, 3, 1).numpy():
                    yield frame
                    advance(1)

        write_video(
            out, frames(), waveform, fps=FPS, metadata={"comment": f"{PROVENANCE}. {comment}", "title": out.stem}
        )


def _picture(path: Path, size: int, crop: bool) -> torch.Tensor:
    """An image file as uint8 (1, 3, S, S)."""
    return torch.from_numpy(crop_portrait(path, size, detect=crop)).permute(2, 0, 1)[None]
