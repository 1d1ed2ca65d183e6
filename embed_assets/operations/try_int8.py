"""`try-int8`: measures whether int8 MuQ pays for this library on this machine; indexes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from embed_assets import encoders
from embed_assets.audio.windows import WindowPolicy
from embed_assets.embedding.compare import EngineConfig, Pass, calibrate, distance, embed, pooled
from embed_assets.encoders import weights
from embed_assets.encoders.cards import default_model
from embed_assets.encoders.config import EncoderConfig
from embed_assets.encoders.muq.card import MUQ, MUQ_INT8
from embed_assets.errors import ConfigurationError
from embed_assets.identity import local_path
from embed_assets.library.sample import sample
from embed_assets.library.walk import require_library
from embed_assets.settings import Settings

NEIGHBOURS = 10
GOAL_OVERLAP = 0.95
"""Mean share of a track's ten nearest in float32 that must be among its ten nearest in int8."""

GOAL_SPEED = 1.25
"""Lowest speed-up over `muq` that justifies embedding the library again."""

FEWEST = 40
"""Fewest tracks; with fewer, ten neighbours would be too large a share of them."""

CALIBRATION_TRACKS = 8
CALIBRATION_SECONDS = 5.0
"""Seconds of each track for calibration; these tracks are not measured."""

MOST_WINDOWS = 3
TIMED = 8
"""Tracks that are embedded with `muq` on its usual engine here, to measure its speed."""

SETTING = f"EMBED_ENCODER={MUQ_INT8.name}"
SAY_SECONDS = 15.0


@dataclass(frozen=True)
class Trial:
    """The result of the comparison; `try-int8 --json` prints it."""

    use: bool
    """Whether both goals are met."""
    verdict: str
    """The same in words, with the figures."""
    setting: str
    """The setting that is recommended, e.g. `EMBED_ENCODER=muq`."""
    overlap: float
    """Mean share of a track's 10 nearest in float32 that are among its 10 nearest in int8."""
    overlap_error: float
    """Standard error of `overlap`."""
    overlap_half: float
    """The same share among half of the tracks."""
    goal_overlap: float
    """What `overlap` must be at least."""
    same_nearest: float
    """Share of tracks whose nearest neighbour stays the same."""
    smallest_cosine: float
    """The smallest cosine between the int8 and the float32 vector of a track."""
    median_cosine: float
    """The median of these cosines."""
    speed: float
    """Speed of `muq-int8` divided by that of `muq` as it runs here, per core, encoder only."""
    goal_speed: float
    """What `speed` must be at least."""
    speeds: dict[str, float]
    """Seconds of audio per second of one core, by encoder and engine."""
    tracks: int
    """Tracks that were compared."""
    skipped: int
    """Tracks that could not be embedded."""
    library_tracks: int
    """Audio files in the library."""
    windows: str
    """Number and length of the windows, e.g. `3 x 10 s`."""
    pooling: str
    """`EMBED_POOLING`."""


def try_int8(settings: Settings, tracks: int, progress: Callable[[str], None]) -> Trial:
    """Embed a sample of the library in int8 and in float32, and compare neighbours and speed.

    If there is no int8 model yet, it is made first, calibrated on other tracks of the library.

    Raises:
        ConfigurationError: the library is missing or too small, the weights are missing, or int8
            cannot be used on this machine.
        TransientError: the disk is full, or workers were killed.
    """
    from embed_assets.encoders.muq.encoder import must_make_int8

    root = require_library(settings.library)
    model, cache = _model(settings), settings.model_cache
    encoders.require_device(MUQ_INT8.name, settings.device)
    # Another encoder instead is no help here.
    weights.fetch(
        model,
        cache,
        replace(MUQ_INT8, instead=""),
        lambda: progress(f"downloading {model}: {MUQ_INT8.note}"),
    )
    to_make = must_make_int8(model, settings.device, cache)
    names, there = sample(root, CALIBRATION_TRACKS + tracks)
    if len(names) < CALIBRATION_TRACKS + FEWEST:
        raise _too_few(len(names), CALIBRATION_TRACKS + FEWEST)
    paths = [local_path(root, name) for name in names]
    calibrating, paths = paths[:CALIBRATION_TRACKS], paths[CALIBRATION_TRACKS:]
    policy = WindowPolicy(
        settings.window_seconds, min(settings.windows or MOST_WINDOWS, MOST_WINDOWS)
    )
    if to_make:
        progress(
            f"creating the int8 model of MuQ, calibrated on {len(calibrating)} tracks: once, about"
            " five minutes, 6 GB of memory"
        )
        calibrate(model, cache, calibrating, CALIBRATION_SECONDS)

    def passed(what: str, name: str, some: list[bytes], *, exact: bool = False) -> Pass:
        config = EncoderConfig(name, model, "cpu", cache)
        engine, workers = EngineConfig(config, exact), config.workers(policy.seconds)
        return embed(engine, some, policy, workers, _Progress(what, len(some), progress))

    # int8 comes first, because it may not work here.
    int8 = passed("in int8", MUQ_INT8.name, paths)
    if len(int8.tracks) < FEWEST:
        raise _too_few(len(int8.tracks), FEWEST)
    exact = passed("in float32", MUQ.name, paths, exact=True)
    both = sorted(int8.tracks.keys() & exact.tracks.keys())
    timed = [paths[i] for i in both[:: max(1, len(both) // TIMED)]]
    usual = passed("as muq runs here", MUQ.name, timed)
    a, b = (pooled(p, both, settings.pooling) for p in (exact, int8))
    far = distance(a, b, NEIGHBOURS)
    speed = int8.speed / usual.speed
    use = far.overlap >= GOAL_OVERLAP and speed >= GOAL_SPEED
    return Trial(
        use=use,
        verdict=_verdict(far.overlap, speed, usual.engine),
        setting=SETTING if use else "EMBED_ENCODER=muq",
        goal_overlap=GOAL_OVERLAP,
        speed=round(speed, 2),
        goal_speed=GOAL_SPEED,
        speeds={
            f"{name} ({p.engine})": round(p.speed, 2)
            for name, p in (
                (MUQ_INT8.name, int8),
                (MUQ.name, usual),
                (f"{MUQ.name} in float32", exact),
            )
        },
        tracks=len(both),
        skipped=len(paths) - len(both),
        library_tracks=there,
        windows=f"{policy.count} x {policy.seconds:g} s",
        pooling=settings.pooling,
        **{k: round(v, 5) for k, v in asdict(far).items() if k != "k"},
    )


def _verdict(overlap: float, speed: float, usual: str) -> str:
    kept = f"of a track's {NEIGHBOURS} nearest tracks, {NEIGHBOURS * overlap:.1f} stay the same"
    fast = f"it is {speed:.1f} times as fast as muq here ({usual})"
    if overlap < GOAL_OVERLAP:
        return (
            f"Do not use it: {kept}, and at least {NEIGHBOURS * GOAL_OVERLAP:g} should; {fast}."
            " Leave EMBED_ENCODER=muq."
        )
    if speed < GOAL_SPEED:
        return (
            f"Do not use it: {fast}, too little to embed the library again for it; {kept}. Leave"
            " EMBED_ENCODER=muq."
        )
    return (
        f"Use it: {kept}, and {fast}. Set {SETTING}; the library is embedded again, the present"
        " vectors are kept, and EMBED_ENCODER=muq returns to them."
    )


def _too_few(tracks: int, wanted: int) -> ConfigurationError:
    return ConfigurationError(
        f"only {tracks} tracks of EMBED_LIBRARY can be used, too few to compare ten neighbours (at"
        f" least {wanted} are needed): add music, or leave EMBED_ENCODER=muq"
    )


class _Progress:
    """Prints a line now and then: how many tracks are done, and the time left."""

    def __init__(self, what: str, total: int, progress: Callable[[str], None]) -> None:
        self.what, self.total, self.progress = what, total, progress
        self.done, self.began, self.printed = 0, 0.0, time.monotonic()

    def __call__(self) -> None:
        self.done += 1
        now = time.monotonic()
        if self.done == 1:
            self.began = now  # The first track includes loading the model.
        if now - self.printed < SAY_SECONDS and self.done < self.total:
            return
        self.printed = now
        left = (now - self.began) / max(1, self.done - 1) * (self.total - self.done)
        self.progress(f"{self.what}: {self.done} of {self.total} tracks, {left / 60:.0f} min to go")


def _model(settings: Settings) -> str:
    """EMBED_MODEL, unless it is not set or the default of an encoder with other weights."""
    another = settings.model in ("", default_model(settings.encoder))
    return MUQ_INT8.default_model if another else settings.model
