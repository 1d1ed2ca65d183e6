"""`status`: counts of tracks and folders by state, live runs, and the rate."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg

from embed_assets.defs.dead_runs import only_the_daemon_runs
from embed_assets.defs.evaluation import evaluate
from embed_assets.encoders.cards import card_of
from embed_assets.errors import ConfigurationError, EmbedAssetsError, WeightsMissing
from embed_assets.identity import WORDS, IndexSpec, RecipeDigest
from embed_assets.library.left_out import LeftOut
from embed_assets.neighbours.ranking import COSINE
from embed_assets.operations.errors import failed_folders
from embed_assets.operations.music_servers import ServerRow, music_servers
from embed_assets.operations.read_only import address_of_up, open_existing, require_setting
from embed_assets.planning.values import Policy, SensorCursor
from embed_assets.project import Project, for_reading
from embed_assets.search.order import chosen_method
from embed_assets.search.served import spec_of, spec_to_show
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry, queries
from embed_assets.storage.owner import check_owner
from embed_assets.storage.tables import Tables

ANSWER_SECONDS = 10.0
"""How long `status` waits for the place of the vectors; an object store gives up sooner."""

RATE_SECONDS = 60.0
"""The rate covers the last minute, or the part of it in which runs embedded tracks."""


@dataclass(frozen=True)
class WordsStatus:
    """The `words` of `status --json`: the collection for `find`, with `EMBED_WORDS`."""

    encoder: str
    """The encoder that makes its vectors."""
    tracks_embedded: int
    """Tracks with vectors of this encoder."""
    tracks_rejected: int
    """Tracks that only this encoder cannot embed; `errors` lists them, too."""
    tracks_pending: int
    """Tracks that are neither embedded nor rejected yet."""
    rate: float
    """Tracks embedded with it per second, over the last minute."""
    engine: str
    """The engine, precision and device that embedded the last track; empty before the first."""
    collection: str
    """The collection of the current settings."""
    served: str | None
    """The collection that `find` uses; null before the first."""
    problem: str = ""
    """Why nothing is embedded for `find` here, e.g. that weights are missing; empty if it is."""


@dataclass(frozen=True)
class Status:
    """The state of the library; `status --json` prints it."""

    library: str
    """`EMBED_LIBRARY`."""
    ui: str | None
    """Address of the Dagster UI of a running `up`; null if none runs."""
    folders: int
    """Music folders in the library."""
    folders_in_step: int
    """Folders that are indexed as they are now."""
    folders_to_do: int
    """New, changed and deleted folders that no run covers yet."""
    folders_in_runs: int
    """Folders that queued or running runs cover."""
    folders_failed: int
    """Folders whose last attempt failed; `errors` lists them."""
    folders_unreadable: int
    """Folders that cannot be read; what is indexed of them stays."""
    links_skipped: int
    """Symbolic links that are not followed: they lead out of the library, or are broken."""
    tracks: int
    """Audio files in the library."""
    tracks_embedded: int
    """Tracks with stored vectors of the current settings."""
    tracks_rejected: int
    """Tracks that cannot be embedded; `errors` lists them."""
    tracks_pending: int
    """Tracks that are neither embedded nor rejected yet."""
    tracks_damaged: int
    """Embedded tracks that could be decoded in part only; see `note` of `Library.tracks()`."""
    audio_hours: float
    """Duration of the embedded tracks, in hours."""
    live_runs: int
    """Dagster runs that are queued or running."""
    rate: float
    """Tracks embedded per second, over the last minute."""
    eta: float | None
    """Seconds until all pending tracks are embedded; null if none is pending or the rate is 0."""
    encoder: str
    """`EMBED_ENCODER`."""
    note: str
    """What the encoder is and what its license allows, in words."""
    device: str
    """`EMBED_DEVICE`."""
    engine: str
    """The engine, precision and device that embedded the last track; empty before the first."""
    collection: str
    """The collection of the current settings; while their weights are missing, the served one."""
    served: str | None
    """The collection that searches use; null before the first."""
    served_by_hand: bool
    """Whether `served` was chosen with `promote` or `rollback`, and not by the settings."""
    ranking: str
    """What neighbours are ranked by in the served collection; see `evaluate --choose`."""
    milvus: str
    """Why the Milvus server cannot be reached; empty if it can, and for Milvus Lite."""
    vectors: str
    """Why the vectors in `EMBED_VECTORS` cannot be used; empty if they can."""
    problem: str
    """Why the library could not be scanned; empty if it could."""
    weights: str
    """Empty, or that the weights of `encoder` are missing: then counts are about what is served."""
    servers: list[ServerRow]
    """The music servers (below)."""
    words: WordsStatus | None = None
    """The collection for `find` beside it (below); null without `EMBED_WORDS`."""
    daemon: bool = False
    """Whether a daemon of Dagster does the runs without `up`, e.g. that of its Helm chart."""

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return asdict(self)


def status(settings: Settings) -> Status:
    """Compare the library with the tables and Dagster; changes nothing.

    Raises:
        ConfigurationError: EMBED_LIBRARY is not set, no such encoder, or no weights and nothing is
            served.
    """
    require_setting(settings)
    project = for_reading(settings)
    spec, weights = spec_to_show(project)
    found = queries.counts(project.tables, spec.recipe.digest, spec.collection_key(project.uri))
    problem, plan, live, left_out = "", None, 0, LeftOut()
    with open_existing(settings) as instance:
        try:
            policy = Policy(settle_seconds=0)
            index = project.index(spec)
            seen = evaluate(instance, index, SensorCursor(), policy, left_out=left_out)
            plan, live = seen.plan, seen.live_runs
        except ConfigurationError as e:
            problem = str(e)
        failed = len(failed_folders(instance, project, spec))
        rate = _rate(instance, project.tables, spec.recipe.digest, goes_on=live > 0)
        tracks = plan.files if plan else found.tracks
        words = _words(instance, project, spec, tracks, goes_on=live > 0)
        ui = address_of_up(settings)
        daemon = ui is None and only_the_daemon_runs(instance)
    left = max(plan.files - found.embedded - found.rejected, 0) if plan else found.pending
    served = collection_registry.last_served(project.tables, project.uri)
    return Status(
        library=str(settings.library or ""),
        ui=ui,
        folders=plan.folders if plan else found.folders,
        folders_in_step=plan.in_step if plan else found.folders_indexed,
        folders_to_do=plan.due if plan else 0,
        folders_in_runs=plan.running if plan else 0,
        folders_failed=failed,
        folders_unreadable=plan.unreadable if plan else 0,
        links_skipped=left_out.links,
        tracks=tracks,
        tracks_embedded=found.embedded,
        tracks_rejected=found.rejected,
        tracks_pending=left,
        tracks_damaged=queries.damaged_tracks(project.tables, spec.recipe.digest),
        audio_hours=found.audio_seconds / 3600,
        live_runs=live,
        rate=rate,
        eta=left / rate if rate and left else None,
        encoder=settings.encoder,
        note=_note(settings),
        device=settings.device,
        engine=queries.last_engine(project.tables, spec.recipe.digest),
        collection=spec.collection,
        served=served,
        served_by_hand=collection_registry.is_by_hand(project.tables, project.uri, spec.collection),
        ranking=_ranking(project, served),
        milvus=project.backend.unreachable(),
        vectors=_vectors(project),
        problem=problem,
        weights=weights,
        servers=music_servers(settings),
        words=words,
        daemon=daemon,
    )


def _note(settings: Settings) -> str:
    from embed_assets import encoders

    try:
        return encoders.describe(settings.encoder, settings.model, settings.model_cache).note
    except WeightsMissing:
        return card_of(settings.encoder).note


def _vectors(project: Project) -> str:
    """Why the place of the vectors cannot be used; does not wait for a share that hangs."""
    if not project.store.address:
        return ""
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            check_owner(project.tables, project.store, hurried=True)
        except BaseException as e:  # noqa: BLE001  # raised for whoever waits
            answer.set_exception(e)
        else:
            answer.set_result(None)

    # A thread of a pool would be waited for at the end of the process.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer.result(ANSWER_SECONDS)
    except TimeoutError:
        return f"{project.store.where} has not answered for {ANSWER_SECONDS:.0f} s: check its disk"
    except EmbedAssetsError as e:
        return str(e)
    return ""


def _words(
    instance: dg.DagsterInstance, project: Project, spec: IndexSpec, tracks: int, *, goes_on: bool
) -> WordsStatus | None:
    """`tracks`: audio files in the library."""
    tables, words = project.tables, spec.words_spec
    served = collection_registry.last_served(tables, project.uri, WORDS)
    missing = project.vectors.words_missing()
    if missing and served:
        words = collection_registry.spec_of(tables, project.uri, served)
    if words is None and missing and project.vectors.words:
        name = project.vectors.words.name
        return WordsStatus(name, 0, 0, tracks, 0.0, "", "", served, missing)
    if words is None:
        return None
    recipe = words.recipe.digest
    found = queries.counts(tables, recipe, words.collection_key(project.uri))
    rejected = sum(1 for _ in queries.rejected_for_words(tables, recipe, spec.recipe.digest))
    return WordsStatus(
        encoder=words.recipe.encoder,
        tracks_embedded=found.embedded,
        tracks_rejected=rejected,
        tracks_pending=max(tracks - found.embedded - found.rejected, 0),
        rate=_rate(instance, tables, recipe, goes_on=goes_on),
        engine=queries.last_engine(tables, recipe),
        collection=words.collection,
        served=served,
        problem=missing,
    )


def _ranking(project: Project, served: str | None) -> str:
    spec = spec_of(project, served) if served else None
    return chosen_method(project.tables, spec.collection_key(project.uri)) if spec else COSINE


def _rate(
    instance: dg.DagsterInstance, tables: Tables, recipe: RecipeDigest, *, goes_on: bool
) -> float:
    """Tracks/s over the last minute, or since the runs that embedded them began."""
    now = time.time()
    since = now - RATE_SECONDS
    tracks, last, runs = queries.embedded_since(tables, recipe, since)
    if not tracks:
        return 0.0
    found = instance.get_run_records(dg.RunsFilter(run_ids=runs))
    begun = min((r.start_time for r in found if r.start_time), default=since)
    return tracks / max((now if goes_on else last) - max(begun, since), 1.0)
