"""The application: every route, what it passes, and its OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from itertools import islice
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from embed_assets.api import Library
from embed_assets.http import audio, page_routes
from embed_assets.http.doors import AT_ONCE, Doors
from embed_assets.http.metrics import Metrics
from embed_assets.http.models import (
    LONGEST_TEXT,
    ErrorRow,
    ListedTrack,
    StatusAnswer,
    TrackPage,
)
from embed_assets.http.problems import PROBLEM, add_handlers
from embed_assets.http.queries import ERRORS, router
from embed_assets.http.state import counts_of, errors_of

MOST_LISTED = 1_000


def create_app(library: Library, token: str = "") -> FastAPI:
    """The application over a library; `token`: what clients must send, if it is not empty."""
    metrics = Metrics(library)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = AT_ONCE
        yield

    app = FastAPI(
        title="embed_assets",
        version=version("embed_assets"),
        description="Asks the index of a music library. Scores are cosines in [-1, 1].",
        # These pages load their scripts from another host.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Doors, token=token, metrics=metrics)
    add_handlers(app)
    app.include_router(router(library))
    app.include_router(_lists(library))
    app.include_router(audio.router(library))
    app.include_router(_health(library, metrics))
    app.include_router(page_routes.router(token))
    _declare_problems(app.openapi())
    return app


def _declare_problems(document: dict[str, Any]) -> None:
    """Have the OpenAPI document say that errors are problems, which FastAPI cannot express."""
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if int(status) >= HTTPStatus.BAD_REQUEST and "content" in response:
                    response["content"] = {PROBLEM: response["content"].pop("application/json")}


def _lists(library: Library) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["library"])

    @routes.get("/tracks", responses=ERRORS)
    def tracks(
        q: Annotated[
            str, Query(max_length=LONGEST_TEXT, description="Words of title, artist and path.")
        ] = "",
        after: Annotated[str, Query(max_length=2 * LONGEST_TEXT)] = "",
        n: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
    ) -> TrackPage:
        """Indexed tracks, ordered by path, in pages."""
        snapshot = library.snapshot()
        found = list(islice(snapshot.listed(q, after), n + 1))
        page = [ListedTrack(**{k: row[k] for k in ListedTrack.model_fields}) for row in found[:n]]
        return TrackPage(tracks=page, after=page[-1].path if len(found) > n else None)

    @routes.get("/errors", responses=ERRORS)
    def errors() -> list[ErrorRow]:
        """Rejected tracks and failed folders, with the reason."""
        return errors_of(library)

    @routes.get("/status", responses=ERRORS)
    def status() -> StatusAnswer:
        """How many tracks are indexed, by the tables; the library is not walked for it."""
        return counts_of(library)

    return routes


def _health(library: Library, metrics: Metrics) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}

    @routes.get("/readyz", responses={503: ERRORS[503]})
    def readyz() -> dict[str, str]:
        """Whether queries are answered: something is indexed and served."""
        library.snapshot()
        return {"status": "ready"}

    @routes.get("/metrics", response_class=Response)
    def prometheus() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes
