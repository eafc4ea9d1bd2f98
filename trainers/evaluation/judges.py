"""Figures of talking-head papers that need other people's networks: LPIPS, FID, CSIM, LSE-C and LSE-D.

Users bring the networks as ONNX files, which hold no code: nothing is downloaded and nothing is unpickled. They run on
the CPU.

Shapes: B pictures, S pixels a side, E width of a network's output, T frames of a clip, N = T * 640 samples of speech,
W = T - 5 windows of a clip. Pictures are RGB in [-1, 1]; what lies outside is clipped, as in a video. Pixel i covers
[i, i + 1), so that its centre lies at i + 0.5.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from ...models.errors import UserError
from ...models.face import to_bytes, to_float
from ...models.face_model import EYES
from ...models.flow import identity_grid, resize
from ...models.timing import SAMPLES_PER_FRAME
from .mfcc import NUM_MFCC, mfcc

Network = Callable[..., Tensor]  # float32 tensors (B, ...) -> (B, E)


def load_onnx(path: Path, *wanted: tuple[int | str, ...]) -> Network:
    """A network from an ONNX file, with torch's number of threads; it returns its first output.

    wanted: the shape of each input, all float32. A number is a size that the network must take, a letter one that it
    must leave open. Raises UserError if the file is missing, is no ONNX model, or has other inputs.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(path, f"needs onnxruntime ({error}): pip install 'emohead[judges]'") from None
    if not path.is_file():
        raise UserError(path, "no such file", "give a network as an ONNX file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # it would take all cores, whatever OMP_NUM_THREADS says
    options.log_severity_level = 4  # what goes wrong is raised as well
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has an error class of its own for each fault of a file
        raise UserError(path, f"not an ONNX model ({_line(error)})", "export the network anew") from None
    inputs, (output, *_) = session.get_inputs(), session.get_outputs()
    _check_inputs(path, inputs, wanted)

    def run(*tensors: Tensor) -> Tensor:
        arrays = {i.name: x.float().contiguous().numpy(force=True) for i, x in zip(inputs, tensors, strict=True)}
        try:
            (found,) = session.run([output.name], arrays)
        except Exception as error:
            shapes = " and ".join(str(array.shape) for array in arrays.values())
            raise UserError(path, f"cannot take {shapes} ({_line(error)})", "export the network anew") from None
        if found.shape[:1] != tensors[0].shape[:1]:
            raise UserError(path, f"gives {found.shape} for {len(tensors[0])} inputs", "export one row for each input")
        return torch.from_numpy(found).float().reshape(len(found), -1)

    return run


def _check_inputs(path: Path, inputs: list[Any], wanted: tuple[tuple[int | str, ...], ...]) -> None:
    if len(inputs) != len(wanted) or not all(map(_takes, inputs, wanted)):
        given = ", ".join(f"{i.name} {i.type} ({', '.join(map(str, i.shape))})" for i in inputs)
        asked = " and ".join(f"({', '.join(map(str, shape))})" for shape in wanted)
        raise UserError(path, f"takes {given}", f"export it with float32 {asked}, letters as sizes that are left open")


def _takes(given: Any, wanted: tuple[int | str, ...]) -> bool:
    """Whether an input of a session is float32 and has the wanted shape; ONNX names sizes that are left open."""
    if given.type != "tensor(float)" or len(given.shape) != len(wanted):
        return False
    return all(not isinstance(size, int) or size == asked for size, asked in zip(given.shape, wanted, strict=True))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class Lpips:
    """Learned perceptual distance of pictures to the true ones (Zhang et al. 2018); 0 is best.

    The network: two pictures (B, 3, S, S) in [-1, 1] -> distances (B, ...), a map of them being averaged.
    """

    def __init__(self, path: Path) -> None:
        self.network = load_onnx(path, ("B", 3, "S", "S"), ("B", 3, "S", "S"))

    def __call__(self, frames: Tensor, truth: Tensor) -> Tensor:
        """Pictures and true ones (B, 3, S, S) -> (B,)."""
        return self.network(frames.clamp(-1, 1), truth).mean(dim=1)


INCEPTION_SIZE = 299


class Fid:
    """Fréchet distance of the features of made pictures to those of true ones (Heusel et al. 2017); 0 is best.

    The network: (B, 3, 299, 299) in [-1, 1] -> features (B, E), of Inception-v3 in the papers. Pictures are rounded to
    bytes, as they are stored, and resized bilinearly without smoothing; other ways give other figures (Parmar et al.
    2022). The estimate is too high by a share that falls as 1 / the number of pictures and differs between generators
    (Chong & Forsyth 2020): compare only figures over the same number, and with a few hundred trust large gaps alone.
    """

    def __init__(self, path: Path) -> None:
        shape = (3, INCEPTION_SIZE, INCEPTION_SIZE)
        self.path, self.network = path, load_onnx(path, ("B", *shape))
        self.width = self.network(torch.zeros(1, *shape)).shape[1]

    def features(self, frames: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) -> (B, E)."""
        return self.network(resize(to_float(to_bytes(frames)), INCEPTION_SIZE))

    def collect(self) -> "FidCollection":
        """For the pictures of one maker."""
        return FidCollection(self.path, self.width)


class FidCollection:
    """Features collected as their means and covariances."""

    def __init__(self, path: Path, width: int) -> None:
        self.path = path
        self.metric = FrechetInceptionDistance(Given(width))

    def update(self, truth: Tensor, made: Tensor) -> None:
        """Count features (B, E) of true and of made pictures."""
        self.metric.update(truth, real=True)
        self.metric.update(made, real=False)

    def compute(self) -> float:
        """Over all pictures so far."""
        if self.metric.real_features_num_samples < 2:
            raise UserError(self.path, "FID is of two pictures at least, and the split has one", "leave out --fid")
        return max(0.0, float(self.metric.compute()))  # rounding may leave a little less for equal ones


class Given(nn.Module):
    """Hands torchmetrics the features that there are already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


ARCFACE_SIZE = 112
NOSE_AND_MOUTH_CORNERS = [30, 48, 54]  # of the iBUG landmarks
# Eyes, nose tip and mouth corners in ArcFace's crop, x and y from the centre of its first pixel.
ARCFACE_POINTS = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))


class Csim:
    """Whether the person stays who they are: cosine of ArcFace embeddings (Deng et al. 2019); 1 is best.

    The network: aligned faces (B, 3, 112, 112) in [-1, 1], which is (byte - 127.5) / 127.5 -> embeddings (B, E).
    """

    def __init__(self, path: Path) -> None:
        self.network = load_onnx(path, ("B", 3, ARCFACE_SIZE, ARCFACE_SIZE))

    def __call__(self, frames: Tensor, landmarks: Tensor, portrait: Tensor, portrait_landmarks: Tensor) -> Tensor:
        """Frames (B, 3, S, S) with landmarks (B, 68, 2) and one portrait (1, 3, S, S) with (68, 2) -> (B,)."""
        made = self.network(align(frames.clamp(-1, 1), landmarks))
        return F.cosine_similarity(made, self.network(align(portrait, portrait_landmarks[None])))


def align(frames: Tensor, landmarks: Tensor) -> Tensor:
    """Faces (B, 3, S, S) with iBUG landmarks (B, 68, 2) in pixels of S, as ArcFace wants them (B, 3, 112, 112).

    Turned, scaled and shifted so that eyes, nose and mouth corners come nearest to their places in the crop. In the
    plane the least-squares fit of Umeyama (1991), of which a reflection is never part, is a line through complex
    numbers: place = turn * point + shift; `turn` rotates and scales.
    """
    landmarks = landmarks.double()  # those of a data set are float16
    eyes = (landmarks[:, eye].mean(dim=1, keepdim=True) for eye in EYES)
    points = torch.view_as_complex(torch.cat([*eyes, landmarks[:, NOSE_AND_MOUTH_CORNERS]], dim=1))  # (B, 5)
    places = torch.view_as_complex(torch.tensor(ARCFACE_POINTS, dtype=torch.float64) + 0.5)  # (5,)
    point, place = points.mean(dim=1, keepdim=True), places.mean()
    centred = points - point
    turn = (centred.conj() * (places - place)).sum(dim=1) / centred.abs().square().sum(dim=1)  # (B,)
    # Each pixel of the crop is read where it came from in the frame.
    grid = (identity_grid(ARCFACE_SIZE).double() + 1) * (ARCFACE_SIZE / 2)  # (2, 112, 112), pixels of the crop
    origin = (torch.complex(*grid) - place) / turn[:, None, None] + point[..., None]  # (B, 112, 112), pixels of S
    where = (torch.view_as_real(origin) * (2 / frames.shape[-1]) - 1).float()
    # Outside the frame lies black, which is -1.
    return F.grid_sample(frames + 1, where, mode="bilinear", padding_mode="zeros", align_corners=False) - 1


WINDOW_FRAMES = 5  # of video that an embedding sees
WINDOW_MFCCS = 20  # of speech, the same 0.2 s
MFCCS_PER_FRAME = 4
MAX_SHIFT = 15  # frames
SYNC_SIZE = 224
SYNC_BATCH = 16  # windows: 48 MB for each buffer of them


class SyncNet:
    """How well lips and speech belong together: LSE-C and LSE-D of Prajwal et al. (2020).

    The networks, those of Chung & Zisserman (2016): `face.onnx`, five frames (B, 3, 5, 224, 224) in BGR of 0 to 255,
    and `audio.onnx`, 20 MFCCs (B, 1, 13, 20), each -> embeddings (B, 1024).
    The crop of the face is that of the data set; the original finds and crops faces with S3FD. So these figures can be
    compared with each other, but not with those of papers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.face = load_onnx(folder / "face.onnx", ("B", 3, WINDOW_FRAMES, SYNC_SIZE, SYNC_SIZE))
        self.audio = load_onnx(folder / "audio.onnx", ("B", 1, NUM_MFCC, WINDOW_MFCCS))

    def __call__(self, frames: Tensor, speech: Tensor) -> dict[str, float]:
        """Frames (T, 3, S, S) at 25 a second and speech (N,) at 16 kHz in [-1, 1] -> the figures of a clip.

        The mean distance of the embeddings of all windows is taken at each shift of up to 15 frames.
        `sync_net_distance` (LSE-D) is the least of them, `sync_net_confidence` (LSE-C) the median less the least, and
        `sync_net_offset` the frames by which the lips come late. Clips of 20 frames or less have none of them.
        """
        count = min(len(frames), len(speech) // SAMPLES_PER_FRAME) - WINDOW_FRAMES  # MFCCs suffice for no more
        if count <= MAX_SHIFT:
            return {}
        starts = range(0, count, SYNC_BATCH)
        pictures = (lip_windows(frames[i : min(i + SYNC_BATCH, count) + WINDOW_FRAMES - 1]) for i in starts)
        cepstra = torch.from_numpy(mfcc(speech.numpy(force=True))).unfold(0, WINDOW_MFCCS, MFCCS_PER_FRAME)
        seen = embed(self.face, pictures, count)  # (W, E)
        heard = embed(self.audio, cepstra[:count, None].split(SYNC_BATCH), count)
        if seen.shape != heard.shape:
            sizes = f"{seen.shape[1]} and {heard.shape[1]}"
            raise UserError(self.folder, f"face.onnx and audio.onnx give {sizes} values", "take two of one training")
        # Beyond the ends the original compares with zeros, and so do we: that is part of the figure.
        padded = F.pad(heard, (0, 0, MAX_SHIFT, MAX_SHIFT))
        shifts = range(2 * MAX_SHIFT + 1)
        distances = torch.stack([F.pairwise_distance(seen, padded[s : s + count]).mean() for s in shifts])
        least = distances.min()
        return {
            "sync_net_confidence": float(distances.median() - least),
            "sync_net_distance": float(least),
            "sync_net_offset": float(MAX_SHIFT - distances.argmin()),
        }


def lip_windows(frames: Tensor) -> Tensor:
    """Frames (n + 4, 3, S, S) -> all windows in them (n, 3, 5, 224, 224), BGR of 0 to 255."""
    pixels = (resize(frames.float(), SYNC_SIZE).clamp(-1, 1).flip(1) + 1) * 127.5  # not rounded: nobody sees them
    return rearrange(pixels.unfold(0, WINDOW_FRAMES, 1), "b c h w t -> b c t h w")


def embed(network: Network, batches: Iterable[Tensor], count: int) -> Tensor:
    """`count` windows in batches -> (count, E).

    All lie in one block. If each were kept by itself, they would leave holes between the large buffers of pictures. The
    next buffers would not fit into the holes, and memory would grow by a megabyte a window.
    """
    rows, done = torch.empty(0), 0
    for batch in batches:
        found = network(batch)
        rows = found.new_empty(count, found.shape[1]) if done == 0 else rows
        rows[done : done + len(found)] = found
        done += len(found)
    return rows
