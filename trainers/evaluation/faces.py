"""What networks of others, that are installed, say of the faces in frames: which expression, and whose face.

    npm install @vladmandic/face-api @vladmandic/human

in the working folder or one above it, or globally. Faces are found by the tracker of the extra `prepare`. How far the
networks can be believed on films of acting people is measured by benchmarks/judges.py.

Shapes: F frames, S pixels.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...datamodules.tracking.tracker import FaceTracker
from ...models.errors import UserError
from ...models.face import to_pictures
from ...models.face_judges import EXPRESSIONS, ExpressionJudge, IdentityJudge, square
from .tracked import TRACKER, tracker_installed

GLOBAL = ("/usr/local/lib/node_modules", "/usr/lib/node_modules")
PACKAGES = {"expression": "@vladmandic/face-api", "identity": "@vladmandic/human"}


class FaceJudges:
    """Those of the two networks that are installed. Raises UserError if neither is."""

    def __init__(self) -> None:
        found = {figure: installed(package) for figure, package in PACKAGES.items()}
        if not any(found.values()):
            raise UserError("--judges", "no judge is installed", f"npm install {' '.join(PACKAGES.values())}")
        if not tracker_installed():
            raise UserError("--judges", "faces cannot be found in frames", TRACKER)
        self.expression = ExpressionJudge(found["expression"]) if found["expression"] else None
        self.identity = IdentityJudge(found["identity"]) if found["identity"] else None
        self.tracker = FaceTracker(video=False, max_faces=1)

    def missing(self) -> list[str]:
        """Figures whose network is not installed, and its package."""
        held = {"expression": self.expression, "identity": self.identity}
        return [f"{figure} ({PACKAGES[figure]})" for figure, judge in held.items() if judge is None]

    def figures(self, frames: Tensor, portrait: Tensor, emotion: str | None) -> dict[str, float]:
        """Figures of frames (F, 3, S, S) of one clip, and its portrait (1, 3, S, S), in [-1, 1].

        `faces_judged`: share of the frames in which the tracker finds a face; the others are of those. `expression`: 1
        if the label's is the most probable of seven, averaged over the frames, else 0; `expression_rank`: its place
        among the seven, 1 being the best; both need a label that is one of the seven. `identity`: mean likeness of the
        faces to the portrait's, if a face is found there.
        """
        shown, points = self.faces(frames)
        figures = {"faces_judged": len(shown) / len(frames)}
        if not len(shown):
            return figures
        if self.expression and emotion in EXPRESSIONS:
            faces = square(shown, points, self.expression.size, self.expression.room)
            chances = self.expression(faces).exp().mean(dim=0)
            rank = 1 + int((chances > chances[EXPRESSIONS.index(emotion)]).sum())
            figures |= {"expression": float(rank == 1), "expression_rank": float(rank)}
        whose, at = self.faces(portrait)
        if self.identity and len(whose):
            cut = [square(*pair, self.identity.size, self.identity.room) for pair in ((shown, points), (whose, at))]
            made, own = (self.identity(faces) for faces in cut)
            figures["identity"] = float((made @ own.T).mean())
        return figures

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
