"""The application: its routes, middleware and OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from embed_assets.access import Tokens
from embed_assets.api import Library
from embed_assets.http.audio import audio_streams
from embed_assets.http.audiomuse import audiomuse
from embed_assets.http.context import Context
from embed_assets.http.doors import AT_ONCE, Doors
from embed_assets.http.library import about_library
from embed_assets.http.metrics import Metrics
from embed_assets.http.page_routes import page
from embed_assets.http.playlists import playlists
from embed_assets.http.problems import ERRORS, PROBLEM, add_handlers
from embed_assets.http.queries import queries
from embed_assets.http.subsonic import subsonic


def create_app(library: Library, tokens: Tokens = Tokens()) -> FastAPI:  # noqa: B008  # frozen
    """The application over a library; `tokens`: what clients must send, if there are any."""
    context = Context.of(library)
    metrics = Metrics(context)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = AT_ONCE
        context.ids.start()
        yield
        context.ids.stop()

    app = FastAPI(
        title="embed_assets",
        version=version("embed_assets"),
        description="Queries the index of a music library. Scores are cosines in [-1, 1].",
        # These pages load their scripts from another host.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Doors, tokens=tokens, metrics=metrics)
    add_handlers(app)
    app.include_router(queries(context))
    app.include_router(about_library(context))
    app.include_router(audio_streams(library))
    app.include_router(playlists(context))
    app.include_router(audiomuse(context))
    app.include_router(subsonic(context))
    app.include_router(_health(library, metrics))
    app.include_router(page(tokens))
    _declare_problems(app.openapi())
    return app


def _declare_problems(document: dict[str, Any]) -> None:
    """Have the OpenAPI document say that errors are problems, which FastAPI cannot express."""
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if int(status) >= HTTPStatus.BAD_REQUEST and "content" in response:
                    response["content"] = {PROBLEM: response["content"].pop("application/json")}


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
