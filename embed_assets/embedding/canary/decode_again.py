"""Decodes tracks again that another machine could not decode; loads no encoder, stores nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embed_assets.embedding.canary.stages import Subject
from embed_assets.embedding.embed_folders import more_seconds
from embed_assets.embedding.embed_track import same_audio
from embed_assets.errors import FolderChanged, Reason, TrackRejected
from embed_assets.workers import Pool


def decode_all(
    pool: Pool, subjects: Sequence[Subject]
) -> Iterator[tuple[Subject, float | TrackRejected]]:
    """Each subject with the seconds that were decoded of it, or why it is rejected here, too.

    Left out are those whose files have changed or cannot be read. Raises TransientError if the
    workers were killed.
    """
    limited = pool.allowing(lambda subject: more_seconds(subject.job))
    for subject, outcome in limited.run(_decode, subjects):
        if isinstance(outcome, float | TrackRejected):
            yield subject, outcome
        elif not isinstance(outcome, FolderChanged | OSError):
            raise outcome


def _decode(subject: Subject) -> float:
    """Decode the windows of a subject; returns their seconds. Runs in a worker."""
    from embed_assets.audio.decode import iter_windows

    job = subject.job
    if not subject.is_clip and not same_audio(job):
        raise FolderChanged(f"{subject.name}: has other audio now")
    stream = iter_windows(job.path, job.track.duration, job.policy, job.recipe.sample_rate)
    if not sum(1 for _ in stream.windows):
        raise TrackRejected(Reason.CORRUPT, "none of it could be decoded")
    return float(stream.decoded_seconds)
