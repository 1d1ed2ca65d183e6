"""Rows of tracks and positions of their windows, made from what the tables know."""

from __future__ import annotations

from embed_assets.audio.decode import heard_seconds
from embed_assets.audio.windows import WindowPolicy, placed
from embed_assets.encoders.cards import wraps_short_windows
from embed_assets.identity import Recipe, display_path
from embed_assets.index.row import TrackRow
from embed_assets.storage.records import Embedding, Track


def row_of(
    track: Track, embedding: Embedding | None = None, recipe: Recipe | None = None
) -> TrackRow:
    """The row of a track of the manifest; with an embedding, also how its vector was made."""
    folder, _, name = track.path.rpartition(b"/")
    return TrackRow(
        track_id=track.track_id,
        audio_hash=track.audio,
        folder_id=track.folder_id,
        folder=display_path(folder),
        path=display_path(track.path),
        # Half of real libraries have untagged files: people then know a track by its file's name.
        title=track.title or display_path(name.rpartition(b".")[0]),
        artist=track.artist or track.album_artist,
        album=track.album,
        album_artist=track.album_artist,
        genre=track.genre,
        year=track.year,
        duration=track.duration,
        track_number=track.track_number,
        disc_number=track.disc_number,
        container=track.container,
        codec=track.codec,
        sample_rate=track.sample_rate,
        channels=track.channels,
        bit_rate=track.bit_rate,
        recording_id=track.recording_id,
        release_id=track.release_id,
        artist_id=track.artist_id,
        added_at=int(track.added_at),
        changed_at=track.mtime_ns // 10**9,
        encoder=recipe.encoder if recipe else "",
        weights=recipe.weights[:16] if recipe else "",
        engine=embedding.engine if embedding else "",
        device=embedding.device if embedding else "",
        dtype=embedding.dtype if embedding else "",
        embedded_at=int(embedding.at) if embedding else 0,
        run_id=embedding.run_id if embedding else "",
    )


def windows_of(track: Track, embedding: Embedding, recipe: Recipe) -> list[tuple[float, float]]:
    """(start, length) in seconds of the embedded windows of a track, in order."""
    wraps = wraps_short_windows(recipe.encoder)
    policy = WindowPolicy(recipe.window_seconds, recipe.windows, wraps)
    # Windows that tile a track say by themselves how much of it was heard.
    tiled = policy.covers(track.duration)
    heard = embedding.decoded_seconds if tiled else heard_seconds(embedding.note)
    return placed(track.duration, policy, embedding.windows, heard)
