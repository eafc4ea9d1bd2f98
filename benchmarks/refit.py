"""The made-up corpus through the way that real films go: tracked, a face model built, people and motion fitted.

    python benchmarks/refit.py [--people 12] [--work runs/refit] [--results]

Its coefficients are known exactly, so what comes out of `emohead prepare` can be compared with them. Clips are written
as films and prepared; the training people's fitted motion is mapped to the true one by least squares, and that map is
asked of the other people: how much of each true coefficient the fit tells (R squared), by groups. Beside it what the
fit must not tell: the emotion by the identity, nearest class, learned from the training people (chance 0.125).
"""

import argparse
from pathlib import Path

import numpy as np
from emohead.datamodules.corpora.folder import read_folder
from emohead.datamodules.dataset.reader import ClipReader
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
POSE = ("pitch", "yaw", "roll", "x", "y", "log scale")


def write_films(folder: Path, people: int) -> dict[str, tuple[str, np.ndarray]]:
    """A film of each person and emotion -> by its name the emotion and the true motion (T, D)."""
    config, truth = SyntheticConfig(identities=people, frames=50, size=256), {}
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
    """R squared of each true value (D,): fitted and true motion of each clip; a ridge on the former."""
    stack = lambda pairs, which: np.concatenate([pair[which] for pair in pairs]).astype(np.float64)  # noqa: E731
    fitted, true = stack(train, 0), stack(train, 1)
    mean, std, centre = fitted.mean(axis=0), fitted.std(axis=0) + 1e-6, true.mean(axis=0)
    known = (fitted - mean) / std
    weights = np.linalg.solve(known.T @ known + 10 * np.eye(known.shape[1]), known.T @ (true - centre))
    asked = stack(test, 1)
    error = (stack(test, 0) - mean) / std @ weights + centre - asked
    return 1 - np.square(error).sum(axis=0) / np.square(asked - asked.mean(axis=0)).sum(axis=0)


def by_identity(reader: ClipReader) -> float:
    """How often the nearest class of the training people's identities is the label of other people's clips."""
    labels = {split: [reader.info(key).emotion for key in reader.keys(split)] for split in ("train", "val", "test")}
    known = np.stack([reader.identity(key) for key in reader.keys("train")])
    means = {e: known[np.array(labels["train"]) == e].mean(axis=0) for e in EMOTIONS}
    right = []
    for split in ("val", "test"):
        for key, label in zip(reader.keys(split), labels[split], strict=True):
            distances = {e: float(np.linalg.norm(reader.identity(key) - mean)) for e, mean in means.items()}
            least = min(distances.values())
            near = [e for e, distance in distances.items() if distance < least + 1e-4]
            right.append((label in near) / len(near))
    return float(np.mean(right))


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
        true = truth[Path(info.source).name][1][: info.frames]
        pairs["train" if info.split == "train" else "test"].append((reader.motion(info.key), true))
    shares = explained(pairs["train"], pairs["test"])
    residual = np.mean([info.tracking_residual for info in report.kept])
    rows = [
        f"| {len(report.kept)} of {len(truth)} films of {options.people} people kept | |",
        "|---|---|",
        f"| residual | {100 * residual:.2f} % |",
    ]
    for name, words in GROUPS.items():
        own = [i for i, unit in enumerate(ACTION_UNITS) if unit.startswith(words)]
        rows.append(f"| R² of {name} ({len(own)} values) | {shares[own].mean():.2f} |")
    pose = shares[len(ACTION_UNITS) :]
    rows.append(f"| R² of {', '.join(POSE)} | {', '.join(f'{share:.2f}' for share in pose)} |")
    rows.append(f"| emotion told by identity (chance 0.12) | {by_identity(reader):.2f} |")
    print("\n".join(rows))
    if options.results:
        put_into_results("refit", "\n".join(rows))


if __name__ == "__main__":
    main()
