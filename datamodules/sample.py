"""The sample format, from preparation to training: facts that every other file relies on."""

from dataclasses import asdict, dataclass, field

import numpy as np

from ..models.errors import printable
from ..models.timing import FPS, MOTION_WINDOW, SAMPLE_RATE, SAMPLES_PER_FRAME  # noqa: F401 (facts of the format, too)

FORMAT_VERSION = 2

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")  # MEAD's names
NEUTRAL = "neutral"  # the one of them that is none: by it a face at rest is known
LEVELS = (1, 2, 3)  # neutral is always level 1
NO_LABEL = -1
SPLITS = ("train", "val", "test")
NUM_LANDMARKS = 68  # of a face, iBUG's
MAX_GOP = 8  # frames to decode at most to reach any frame of a stored clip


@dataclass
class ClipInfo:
    """The `.json` member: where a clip comes from and what is known about it."""

    key: str
    dataset: str
    identity: str
    split: str
    frames: int
    size: int
    emotion: str | None = None
    level: int | None = None
    view: str = "front"
    sentence: str | None = None
    prompts: list[str] = field(default_factory=list)  # descriptions of this very clip, beside those of its label
    source: str = ""
    start: float = 0.0  # seconds in the source
    end: float = 0.0
    crop: tuple[float, float, float] | None = None  # left, top, side in pixels of the source
    tracking_residual: float = 0.0  # mean landmark distance after the fit / distance of the outer eye corners
    region: str = "none"  # annotated: the face was looked for inside the source's crop; landmarks: it was not there
    av_offset: int | None = None  # frames that the sound of the source came late; None: not sure
    av_confidence: float = 0.0  # of that estimate
    av_shift: int = 0  # frames that the sound was moved forward to make up for it
    silent: bool = False  # it has no sound, so stages that hear leave it out; its speech is zeros
    tools: dict[str, str] = field(default_factory=dict)
    version: int = FORMAT_VERSION

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass
class Clip:
    """One clip in memory, ready to be packed. T frames of S x S pixels."""

    info: ClipInfo
    frames: np.ndarray  # uint8 (T, S, S, 3), RGB
    speech: np.ndarray  # float32 (N,) in [-1, 1], N = T * 640 to within one frame
    motion: np.ndarray  # float32 (T, D)
    identity: np.ndarray  # float32 (I,)
    landmarks: np.ndarray  # float16 (T, 68, 2), pixels of the crop


REJECTIONS = {
    "unreadable": "the file cannot be decoded",
    "crashed": "the decoder or tracker crashed or hung on it",
    "no_audio": "no sound",
    "damaged_audio": "the sound is empty, cannot be decoded or holds values that are not finite",
    "silent_audio": "the sound is silent",
    "no_face": "the face is missing too often",
    "several_faces": "others are in the picture too often",
    "face_too_small": "too few pixels of face",
    "large_yaw": "the face is turned away",
    "scene_cut": "the picture is cut within the clip",
    "too_short": "too short",
    "av_offset": "the sound comes too late or too early",
    "tracking_residual": "the face model does not fit",
    "no_coefficients": "no file of coefficients for it",
    "not_listed": "a file that the data set does not know by this name",
    "duplicate": "the same recording as another file",
    "cut_already": "a clip that was cut from the recording",
    "absent": "in the data set's lists, not on disk",
    "not_annotated": "the annotations give no interval of it",
    "beyond_end": "its interval begins after the end of the file",
}  # what a code means


@dataclass
class Rejected:
    """A clip that was left out, and why."""

    source: str
    reason: str
    code: str  # one of REJECTIONS, for counting
    value: float | None = None  # what was measured

    def __post_init__(self) -> None:
        self.source, self.reason = printable(self.source), printable(self.reason)
