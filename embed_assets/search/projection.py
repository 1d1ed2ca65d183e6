"""A library as a picture: two coordinates per track, its colour group, and its neighbours.

numpy, with scikit-learn for t-SNE and faiss for neighbours.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from embed_assets.search.snapshot import Snapshot

TSNE_ROWS = 5_000
"""Up to this many tracks t-SNE is used, which shows groups best; it takes half a minute."""

TSNE_LEAST = 10
"""With this many tracks or fewer, t-SNE is not used: it would show no structure."""

AXES = 64
"""Principal axes whose coordinates t-SNE gets."""

NEAR = 8
"""Similar tracks that are stored for each track."""

EXACT_NEAR_ROWS = 30_000
"""Above this, similar tracks are found along 64 principal axes only, 16 times as fast."""

GROUPS = 11
"""Groups with a colour of their own; the others are grey."""

COLOURS = (
    "#4e79a7",
    "#f28e2b",
    "#e15759",
    "#76b7b2",
    "#59a14f",
    "#edc948",
    "#b07aa1",
    "#ff9da7",
    "#9c755f",
    "#86bcb6",
    "#d37295",
    "#9a9a9a",
)
"""The last one is for all other groups."""


WIDTH, HEIGHT = 320, 220
"""Size of the small picture in pixels."""


@dataclass(frozen=True)
class Layout:
    """Where each track of a snapshot is drawn, and in which colour.

    `positions`: positions of the tracks in the snapshot. `points`: float32 `[n, 2]` in 0..1.
    `group`: row -> index into `groups`, largest first; groups beyond `GROUPS` share the last index.
    """

    positions: list[int]
    points: np.ndarray
    group: list[int]
    groups: list[str]
    by: str
    method: str


@dataclass(frozen=True)
class Drawing(Layout):
    """A layout with the neighbours of each track. `near`: int `[n, k]`, rows of similar tracks."""

    near: np.ndarray


def draw(searcher: Snapshot, by: str = "", method: str = "") -> Drawing:
    """Lay out every track of a snapshot, and find the neighbours of each; see `lay_out`."""
    searcher = searcher.snapshot()
    found = lay_out(searcher, by, method)
    vectors = searcher.vectors(found.positions)
    near = _near(vectors if len(vectors) <= EXACT_NEAR_ROWS else _along_axes(vectors, AXES))
    return Drawing(**vars(found), near=near)


def lay_out(searcher: Snapshot, by: str = "", method: str = "") -> Layout:
    """Lay out every track of a snapshot.

    `by`: `genre` or `folder`; empty: genre if at least half of the tracks have one. `method`: `pca`
    or `tsne`; empty: t-SNE up to 5,000 tracks, PCA above.
    """
    searcher = searcher.snapshot()
    positions = [i for i, _ in searcher.tracks()]
    parts = _along_axes(searcher.vectors(positions), AXES)
    method = method or ("tsne" if len(positions) <= TSNE_ROWS else "pca")
    if method == "tsne" and len(positions) > TSNE_LEAST:
        points = _tsne(parts)
    else:
        method, points = "pca", parts[:, :2]
    tracks = [searcher.track(i) for i in positions]
    by = by or ("genre" if 2 * sum(bool(t.genre) for t in tracks) >= len(tracks) else "folder")
    if by == "genre":
        names = [re.split(r"[;,/|]", t.genre)[0].strip().title() or "no genre" for t in tracks]
    else:
        names = [t.path.decode("utf-8", "backslashreplace").partition("/")[0] for t in tracks]
    common = [name for name, _ in Counter(names).most_common(GROUPS)]
    number = {name: i for i, name in enumerate(common)}
    groups = [*common, "others"] if len(set(names)) > GROUPS else common
    return Layout(
        positions,
        _within(points),
        [number.get(name, GROUPS) for name in names],
        groups,
        by,
        method,
    )


def picture(drawing: Drawing) -> bytes:
    """The drawing as a small PNG, below 10 KB."""
    from PIL import Image

    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    xs = (drawing.points[:, 0] * (WIDTH - 5)).astype(int) + 1
    ys = ((1 - drawing.points[:, 1]) * (HEIGHT - 5)).astype(int) + 1
    size = 3 if len(xs) <= 300 else 2 if len(xs) <= 5_000 else 1
    # The largest groups first, so that they do not cover the small ones.
    colours = np.array([COLOURS.index(_colour(g)) + 1 for g in drawing.group], np.uint8)
    for k in np.argsort(drawing.group, kind="stable").tolist():
        pixels[ys[k] : ys[k] + size, xs[k] : xs[k] + size] = colours[k]
    image = Image.fromarray(pixels, "P")
    flat = [255, 255, 255]
    for colour in COLOURS:
        flat += [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    image.putpalette(flat)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, bits=4)
    return out.getvalue()


def _colour(group: int) -> str:
    return COLOURS[min(group, GROUPS)]


def _along_axes(vectors: np.ndarray, n: int) -> np.ndarray:
    """Coordinates of centred vectors along their first principal axes: float32 `[rows, n]`."""
    centred = vectors - vectors.mean(axis=0)
    spread = centred.T @ centred
    axes = np.linalg.eigh(spread.astype(np.float64))[1][:, ::-1][:, :n]
    # The sign of an axis is arbitrary: this makes it the same in each run.
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return np.ascontiguousarray(centred @ axes.astype(np.float32))


def _tsne(parts: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(parts) - 1) / 3)
    return TSNE(init="pca", random_state=0, perplexity=perplexity).fit_transform(parts)


def _within(points: np.ndarray) -> np.ndarray:
    """Points scaled to 0..1; outliers (half a percent) are moved to the edge."""
    if len(points) == 0:
        return points.astype(np.float32)
    low, high = np.quantile(points, [0.0025, 0.9975], axis=0)
    return np.clip((points - low) / np.maximum(high - low, 1e-9), 0, 1).astype(np.float32)


def _near(vectors: np.ndarray) -> np.ndarray:
    """Rows of the most similar other tracks of each row, best first: int `[n, k]`."""
    import faiss

    n = len(vectors)
    k = min(NEAR, max(n - 1, 0))
    if k == 0:
        return np.zeros((n, 0), np.int64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    _, found = faiss.knn(unit, unit, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    # Each row finds itself too, unless more than k copies of it come first.
    own = found == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(n, k)
