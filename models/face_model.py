"""A linear 3D face: identity and expression move vertices, a pose puts them into the crop.

Shapes: V vertices, I identity coefficients, K expression coefficients, D = K + 6 values of motion a frame.

Axes: x right, y down, z away from the viewer. One face unit is the distance of the outer eye corners of the mean face.
Motion: expression (K), rotation pitch, yaw, roll (radians), translation x, y (crop units) and log scale.
Crop units: the square crop spans [-1, 1] in x and y; pixel = (u + 1) / 2 * size.
"""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .errors import UserError
from .files import written_aside
from .full_precision import full_precision

POSE_DIM = 6
MIN_STD = 1e-4  # of a value of motion: one that never changes would be divided by zero
EYES = (slice(36, 42), slice(42, 48))  # of the 68 iBUG landmarks
MOUTH = slice(48, 68)
UPPER_INNER_LIP, LOWER_INNER_LIP = 62, 66
OUTER_EYE_CORNERS = (36, 45)


def rotation_matrix(angles: Tensor) -> Tensor:
    """R = Rz(roll) Ry(yaw) Rx(pitch) for angles (..., 3) = pitch, yaw, roll in radians -> (..., 3, 3)."""
    pitch, yaw, roll = angles.unbind(-1)
    cx, sx, cy, sy, cz, sz = pitch.cos(), pitch.sin(), yaw.cos(), yaw.sin(), roll.cos(), roll.sin()
    rows = [
        torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], dim=-1),
        torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], dim=-1),
        torch.stack([-sy, cy * sx, cy * cx], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


class FaceModel(nn.Module):
    """A linear face model with weak-perspective projection (the 3DMM that `motion` is written in)."""

    mean: Tensor  # (V, 3)
    identity_basis: Tensor  # (I, V, 3)
    expression_basis: Tensor  # (K, V, 3)
    landmark_index: Tensor  # (68,) vertex of each iBUG landmark

    def __init__(
        self,
        mean: np.ndarray,
        identity_basis: np.ndarray,
        expression_basis: np.ndarray,
        landmark_index: np.ndarray,
        kind: str = "landmark",
    ) -> None:
        super().__init__()
        assert mean.shape[1:] == identity_basis.shape[2:] == expression_basis.shape[2:] == (3,)
        assert landmark_index.shape == (68,)
        self.kind = kind
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("identity_basis", torch.as_tensor(identity_basis, dtype=torch.float32))
        self.register_buffer("expression_basis", torch.as_tensor(expression_basis, dtype=torch.float32))
        self.register_buffer("landmark_index", torch.as_tensor(landmark_index, dtype=torch.int64))

    @property
    def num_identity(self) -> int:
        return self.identity_basis.shape[0]

    @property
    def num_expression(self) -> int:
        return self.expression_basis.shape[0]

    @property
    def motion_dim(self) -> int:
        return self.num_expression + POSE_DIM

    @full_precision()
    def vertices(self, identity: Tensor, expression: Tensor, index: Tensor | None = None) -> Tensor:
        """Identity (..., I) and expression (..., K) -> vertices (..., V, 3) in face units, before the pose.

        With an `index` (P,) only those vertices (..., P, 3) are computed: `ict` has 9,409 of them.
        """
        bases = (self.mean, self.identity_basis, self.expression_basis)
        mean, identity_basis, expression_basis = bases if index is None else (b[..., index, :] for b in bases)
        shape = torch.einsum("...i,ivc->...vc", identity.to(mean.dtype), identity_basis)
        return mean + shape + torch.einsum("...k,kvc->...vc", expression.to(mean.dtype), expression_basis)

    @full_precision()
    def project(self, vertices: Tensor, pose: Tensor) -> Tensor:
        """Vertices (..., V, 3) and pose (..., 6) -> points (..., V, 2) in crop units."""
        pose = pose.to(vertices.dtype)
        rotated = vertices @ rotation_matrix(pose[..., :3]).transpose(-1, -2)
        return pose[..., None, 3:5] + pose[..., None, 5:6].exp() * rotated[..., :2]

    def landmarks(self, identity: Tensor, motion: Tensor) -> Tensor:
        """Identity (..., I) and motion (..., D) -> the 68 iBUG landmarks (..., 68, 2) in crop units."""
        expression, pose = motion[..., :-POSE_DIM], motion[..., -POSE_DIM:]
        return self.project(self.vertices(identity, expression, self.landmark_index), pose)

    def mouth_opening(self, identity: Tensor, motion: Tensor) -> Tensor:
        """Distance of the inner lips (iBUG 62 to 66) without the pose, in face units: (..., I), (..., D) -> (...)."""
        lips = self.landmark_index[[UPPER_INNER_LIP, LOWER_INNER_LIP]]
        upper, lower = self.vertices(identity, motion[..., :-POSE_DIM], lips).unbind(-2)
        return (upper - lower).norm(dim=-1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The model as plain arrays, named as the constructor's arguments."""
        return {name: buffer.detach().cpu().numpy() for name, buffer in self.named_buffers()}

    def checksum(self) -> str:
        """SHA-256 of the arrays: two motions can be mixed only if their models' checksums are equal."""
        digest = hashlib.sha256(self.kind.encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name}{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def save(self, path: Path | str, partial: Path | None = None) -> None:
        """Write `facemodel.npz` aside (to `partial`) and rename it."""
        with written_aside(Path(path), partial) as aside, open(aside, "wb") as file:
            np.savez(file, kind=np.array(self.kind), **self.arrays())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path | str) -> "FaceModel":
        """Read what `save` wrote; raises UserError if the file is missing or no face model."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(kind=str(arrays.pop("kind")), **arrays)
        except FileNotFoundError:
            raise UserError(
                path,
                "no such face model",
                "`emohead prepare` writes facemodel.npz beside the tars",
            ) from None
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, AssertionError) as error:
            raise UserError(
                path,
                f"not a face model ({error})",
                "give the facemodel.npz of a prepared data set",
            ) from None
