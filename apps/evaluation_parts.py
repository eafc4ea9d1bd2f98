"""The networks of a checkpoint that `emohead evaluate` measures, and those that draw videos with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.emotion import EmotionSpace
from ..models.emotion_student import EmotionEncoder
from ..models.errors import UserError
from ..models.face import FaceGenerator
from ..models.motion import AudioTo3DMM
from ..models.talker import Talker
from ..trainers.evaluation.makers import Maker
from ..trainers.inputs import check_parent


@dataclass
class Parts:
    """The networks of a checkpoint, as far as it has them."""

    emotion: EmotionEncoder | None = None
    motion: AudioTo3DMM | None = None
    hears: EmotionEncoder | None = None  # what tells the motion part the emotion
    face: FaceGenerator | None = None
    talker: Talker | None = None


def load_parts(checkpoint: Checkpoint, emotion: Path | None) -> Parts:
    """The networks of a checkpoint; emotion: the emotion space that a motion stage hears through."""
    kind, path = checkpoint.kind, checkpoint.path
    if kind == "emotion":
        return Parts(emotion=EmotionSpace.rebuild(checkpoint).eval())
    if kind == "motion":
        if emotion is None:
            raise UserError(path, "a motion stage hears through its emotion space", "add --emotion FILE.safetensors")
        space = load_checkpoint(emotion, kind="emotion")
        check_parent(checkpoint, str(path), space)
        return Parts(motion=AudioTo3DMM.rebuild(checkpoint).eval(), hears=EmotionSpace.rebuild(space).eval())
    if kind == "face":
        return Parts(face=FaceGenerator.rebuild(checkpoint).eval())
    if kind != "talker":
        raise UserError(path, f"of the kind '{kind}'", "wanted is a stage's export: emotion, motion, face or talker")
    talker = Talker.rebuild(checkpoint).eval()
    return Parts(talker.emotion, talker.motion, talker.emotion, talker.face, talker)


def makers_of(parts: Parts, checkpoint: Checkpoint, teachers: Sequence[Checkpoint]) -> dict[str, Maker]:
    """The networks that draw videos: the checkpoint itself, and its teachers."""
    makers = {}
    if parts.face:
        makers["student" if parts.talker else "face"] = Maker(parts.face, parts.motion, parts.hears)
    if teachers:
        if not parts.talker:
            raise UserError(f"--teacher {teachers[0].path}", f"goes with a talker, which {checkpoint.path} is not")
        kinds = [teacher.kind for teacher in teachers]
        if sorted(kinds) != ["emotion", "face", "motion"]:
            found = ", ".join(sorted(kinds))
            problem = f"these are exports of {found}"
            raise UserError("--teacher", problem, "give those of emotion, motion and face, one each")
        for teacher in teachers:
            check_parent(checkpoint, str(checkpoint.path), teacher)
        makers["teacher"] = _teacher(dict(zip(kinds, teachers, strict=True)), parts.talker)
    return makers


def _teacher(stages: dict[str, Checkpoint], talker: Talker) -> Maker:
    """The three stages by kind; raises UserError if they cannot be those that the talker learned from."""
    face = FaceGenerator.rebuild(stages["face"]).eval()
    motion = AudioTo3DMM.rebuild(stages["motion"]).eval()
    emotion = EmotionSpace.rebuild(stages["emotion"]).eval()
    student = talker.motion.config
    for kind, what, its, wanted in (
        ("face", "pixels", face.config.size, talker.size),
        ("face", "values of motion", face.config.motion_dim, student.motion_dim),
        ("face", "identity coefficients", face.config.identity_dim, student.identity_dim),
        ("motion", "values of motion", motion.config.motion_dim, student.motion_dim),
        ("motion", "identity coefficients", motion.config.identity_dim, student.identity_dim),
        ("motion", "values of an emotion", motion.config.emotion_dim, student.emotion_dim),
        ("emotion", "values of an emotion", emotion.config.embed_dim, student.emotion_dim),
    ):
        if its != wanted:
            raise UserError(
                f"--teacher {stages[kind].path}", f"{its} {what}, the talker {wanted}", "give its own teachers"
            )
    return Maker(face, motion, emotion)
