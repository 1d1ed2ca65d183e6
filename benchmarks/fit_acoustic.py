"""How encoders/acoustic.npz came about: fits the built-in encoder's constants on real music.

    python benchmarks/fit_acoustic.py DIR [--write] [--json]

From each track of DIR (one folder a soundtrack or album) windows of 10 s are described by
`acoustic.features`. Mean and deviation standardise; linear discriminants project: the covariance
within tracks (shrunk towards a multiple of the identity) is whitened, and the principal axes of
what is left between tracks are kept. Retrieval as in retrieval.py is reported for the features as
they are, standardised, and projected, in sample and held out: in six folds, each soundtrack's
tracks are queried in a space fitted without any track of that fold, among the tracks of all folds.
--write ships the constants fitted on everything.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import retrieval

DIM = 128
SHRINKAGE = 0.2
FOLDS = 6
WINDOW_SECONDS = 10.0


@dataclass(frozen=True)
class Described:
    """A track: its folder and the features [windows, features] of its query and its candidate."""

    folder: str
    query: np.ndarray
    candidate: np.ndarray


def filter_banks() -> dict[str, np.ndarray]:
    import librosa
    import scipy.fft

    from embed_assets.encoders.acoustic import encoder as a

    return {
        "mel": librosa.filters.mel(
            sr=a.SAMPLE_RATE, n_fft=a.N_FFT, n_mels=a.N_MELS, fmin=30, fmax=11000
        ).astype(np.float32),
        "chroma": librosa.filters.chroma(sr=a.SAMPLE_RATE, n_fft=a.N_FFT, tuning=0.0).astype(
            np.float32
        ),
        "dct": scipy.fft.dct(np.eye(a.N_MELS), norm="ortho", axis=0)[: a.N_MFCC].astype(np.float32),
    }


def describe(
    folder: Path, banks: dict[str, np.ndarray], window_seconds: float, left_out: Counter[str]
) -> list[Described]:
    from embed_assets.encoders.acoustic import encoder as acoustic

    tracks = []
    for path in common.tracks_in(folder):
        pair = retrieval.segments(path, acoustic.SAMPLE_RATE, window_seconds, left_out)
        if pair is not None:
            query, candidate = (np.stack([acoustic.features(w, banks) for w in x]) for x in pair)
            tracks.append(Described(str(path.parent), query, candidate))
    return tracks


def fit(tracks: list[Described]) -> dict[str, np.ndarray]:
    """`mean`, `std` and `projection` float32 of standardisation and linear discriminants."""
    from embed_assets.encoders.acoustic.encoder import BOUND

    by_track = [np.concatenate([t.query, t.candidate]) for t in tracks]
    everything = np.concatenate(by_track)
    mean, std = everything.mean(axis=0), everything.std(axis=0) + 1e-3
    z = [np.clip((x - mean) / std, -BOUND, BOUND) for x in by_track]
    within = np.concatenate([x - x.mean(axis=0) for x in z])
    covariance = within.T @ within / len(within)
    n = len(covariance)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / n * np.eye(n)
    values, axes = np.linalg.eigh(covariance)
    whitening = (axes / np.sqrt(values)) @ axes.T
    centres = np.stack([(x @ whitening).mean(axis=0) for x in z])
    principal = np.linalg.svd(centres - centres.mean(axis=0), full_matrices=False)[2]
    projection = whitening @ principal[:DIM].T
    # Half precision is what is shipped, so it is what is evaluated.
    projection = (projection / np.abs(projection).max()).astype(np.float16).astype(np.float32)
    return {"mean": mean, "std": std, "projection": projection}


def embed(x: np.ndarray, model: dict[str, np.ndarray] | None) -> np.ndarray:
    from embed_assets.encoders.acoustic.encoder import BOUND

    if model is not None:
        x = np.clip((x - model["mean"]) / model["std"], -BOUND, BOUND)
        x = x @ model["projection"] if "projection" in model else x
    return retrieval.pooled(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6))


def score(
    tracks: list[Described], model: dict[str, np.ndarray] | None, asked: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    query = np.stack([embed(t.query, model) for t in tracks])
    candidate = np.stack([embed(t.candidate, model) for t in tracks])
    return retrieval.evaluate(query, candidate, [t.folder for t in tracks], asked)


def held_out(tracks: list[Described], projected: bool) -> tuple[np.ndarray, np.ndarray]:
    folders = sorted({t.folder for t in tracks})
    np.random.default_rng(0).shuffle(folders)
    fold = np.array([folders.index(t.folder) % FOLDS for t in tracks])
    results = []
    for i in range(FOLDS):
        model = fit([t for t, f in zip(tracks, fold, strict=True) if f != i])
        if not projected:
            del model["projection"]
        results.append(score(tracks, model, np.flatnonzero(fold == i)))
    return tuple(np.concatenate(part) for part in zip(*results, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", help="music, one folder a soundtrack or album"
    )
    parser.add_argument("--window-seconds", type=float, default=WINDOW_SECONDS)
    parser.add_argument("--write", action="store_true", help="ship what was fitted")
    args = common.parse(parser, argv, window_seconds=1.0)
    if not (args.folder or args.small):
        parser.error("a folder of music is needed")
    if args.write and args.small:
        parser.error("--small fits nothing that could be shipped")
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        args.folder = args.folder or retrieval.made_up(Path(temporary), 2)
        common.show({"benchmark": "fit_acoustic", **measure(args)}, args)
    return 0


def measure(args: Any) -> dict[str, Any]:
    from embed_assets.encoders.acoustic import encoder as acoustic

    left_out: Counter[str] = Counter()
    banks = filter_banks()
    tracks = describe(args.folder, banks, args.window_seconds, left_out)
    if len({t.folder for t in tracks}) < 2:
        raise SystemExit(
            f"{args.folder}: tracks in two folders at least are needed; left out: {dict(left_out)}"
        )
    model = fit(tracks)
    scores = {
        "raw": score(tracks, None),
        "standardised, held out": held_out(tracks, projected=False),
        "projected, held out": held_out(tracks, projected=True),
        "projected, in sample": score(tracks, model),
    }
    if args.write:
        halves = {"projection": model["projection"].astype(np.float16)}
        np.savez_compressed(acoustic.CONSTANTS, **(banks | model | halves))
    return {
        "tracks": len(tracks),
        "left_out": left_out,
        "folders": len({t.folder for t in tracks}),
        "windows": sum(len(t.query) + len(t.candidate) for t in tracks),
        "features": len(model["mean"]),
        "dim": DIM,
        **{
            name: {"R@1": round(float(hits.mean()), 3), "mAP": round(float(ap.mean()), 3)}
            for name, (hits, ap) in scores.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
