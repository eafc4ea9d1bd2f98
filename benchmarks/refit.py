"""The made-up corpus through the way that real films go: tracked, a face model built, people and motion fitted.

    python benchmarks/refit.py [--people 12] [--work runs/refit] [--results]

Its coefficients are known exactly, so what comes out of `emohead prepare` can be compared with them. Clips are written
as films and prepared; the training people's fitted motion is mapped to the true one by least squares, and that map is
asked of the other people: how much of the true coefficients the fit tells (R squared), by groups. Beside it the same of
what moves within a film, without its mean.
"""

import argparse
from pathlib import Path

import numpy as np
from emohead.datamodules.corpora.folder import read_folder
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.media.crop import to_crop_units
from emohead.datamodules.media.write import write_video
from emohead.datamodules.prepare.run import prepare_sources
from emohead.datamodules.prepare.work import PrepareConfig
from emohead.datamodules.sample import EMOTIONS
from emohead.datamodules.synthetic.corpus import Script, SyntheticConfig, make_clip
from emohead.datamodules.synthetic.face import ACTION_UNITS
from tables import put_into_results

GROUPS = {
    "mouth": ("jaw", "lip", "corner", "upper_lip", "lower_lip"),
    "brows": ("inner_brow", "outer_brow", "brow"),
    "lids": ("lid",),
    "gaze": ("gaze",),
}
FILM_SIZE = 256  # pixels
PLACE = slice(-3, -1)  # of motion: where the head is, x and y
LITTLE = 0.05  # of what values move
POSE = ("pitch", "yaw", "roll", "x", "y", "log scale")


def write_films(folder: Path, people: int) -> dict[str, tuple[str, np.ndarray]]:
    """A film of each person and emotion -> by its name the emotion and the true motion (T, D)."""
    config, truth = SyntheticConfig(identities=people, frames=50, size=FILM_SIZE), {}
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["file,identity,emotion,level,sentence"]
    for person in range(people):
        for number, emotion in enumerate(EMOTIONS):
            name = f"p{person:02d}_{emotion}.mp4"
            clip = make_clip(Script(config, person, number, emotion, 1 if emotion == "neutral" else 3, "train"))
            write_video(folder / name, clip.frames, clip.speech)
            rows.append(f"{name},p{person:02d},{emotion},,")
            truth[name] = emotion, clip.motion
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return truth


def explained(train: list[tuple[np.ndarray, np.ndarray]], test: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Squared errors and what there is to explain of each true value (2, 2, D), first of all its variance, then of that
    within films: fitted and true motion of each film; a ridge on the former."""
    stack = lambda pairs, which: np.concatenate([pair[which] for pair in pairs]).astype(np.float64)  # noqa: E731
    known, true = stack(train, 0), stack(train, 1)
    mean, std, centre = known.mean(axis=0), known.std(axis=0) + 1e-6, true.mean(axis=0)
    known = (known - mean) / std
    weights = np.linalg.solve(known.T @ known + 10 * np.eye(known.shape[1]), known.T @ (true - centre))
    asked = [true.astype(np.float64) for _, true in test]
    errors = [(fitted - mean) / std @ weights + centre - true for (fitted, _), true in zip(test, asked, strict=True)]
    middle = np.concatenate(asked).mean(axis=0)
    kinds = (
        (errors, [true - middle for true in asked]),
        ([error - error.mean(axis=0) for error in errors], [true - true.mean(axis=0) for true in asked]),
    )
    return np.array([[np.square(np.concatenate(parts)).sum(axis=0) for parts in kind] for kind in kinds])


def in_crop(motion: np.ndarray, crop: tuple[float, float, float]) -> np.ndarray:
    """True motion (T, D) of a whole film in units of a crop of it: left, top, side in pixels."""
    moved = motion.copy()
    moved[:, PLACE] = to_crop_units((motion[:, PLACE] + 1) * (FILM_SIZE / 2), crop)
    moved[:, -1] += np.log(FILM_SIZE / crop[2])
    return moved


def told(squares: np.ndarray) -> str:
    """R squared of some values together (2, 2, N), all and within films; – if they hardly move there."""
    (error, moved), (error_within, moved_within) = squares.sum(axis=-1)
    within = f"{1 - error_within / moved_within:.2f}" if moved_within > LITTLE * moved else "–"
    return f"{1 - error / moved:.2f}; {within}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--work", type=Path, default=Path("runs/refit"))
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    truth = write_films(options.work / "films", options.people)
    listing, config = read_folder(options.work / "films"), PrepareConfig(size=128)
    report = prepare_sources(listing, options.work / "data", config, workers=2)
    reader = ClipReader(options.work / "data")
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"train": [], "test": []}
    for info in report.kept:
        true = in_crop(truth[Path(info.source).name][1][: info.frames], info.crop)
        pairs["train" if info.split == "train" else "test"].append((reader.motion(info.key), true))
    squares = explained(pairs["train"], pairs["test"])
    residual = np.mean([info.tracking_residual for info in report.kept])
    rows = [
        f"| {len(report.kept)} of {len(truth)} films of {options.people} people kept | |",
        "|---|---|",
        f"| residual | {100 * residual:.2f} % |",
    ]
    for name, words in GROUPS.items():
        own = [i for i, unit in enumerate(ACTION_UNITS) if unit.startswith(words)]
        rows.append(f"| R² of {name} ({len(own)} values), all; within a film | {told(squares[..., own])} |")
    for number, name in enumerate(POSE, len(ACTION_UNITS)):
        rows.append(f"| R² of {name}, all; within a film | {told(squares[..., [number]])} |")
    print("\n".join(rows))
    if options.results:
        put_into_results("refit", "\n".join(rows))


if __name__ == "__main__":
    main()
