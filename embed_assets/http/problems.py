"""Responses for errors: one table from error classes to status codes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from embed_assets.errors import (
    ConfigurationError,
    EmbedAssetsError,
    LibraryUnavailable,
    NotFound,
    NothingIndexed,
    NotIndexedYet,
    TransientError,
    WeightsMissing,
)
from embed_assets.formats import validation_message
from embed_assets.http.models import Problem

PROBLEM = "application/problem+json"

AUDIOMUSE = ("/api/", "/chat/")
"""How paths begin below which errors have AudioMuse's form."""

RETRY_SECONDS = 30
"""`Retry-After` for what is not indexed yet, for missing weights, and for temporary failures."""

STATUS: tuple[tuple[type[EmbedAssetsError], HTTPStatus], ...] = (
    (NotIndexedYet, HTTPStatus.SERVICE_UNAVAILABLE),
    (NothingIndexed, HTTPStatus.SERVICE_UNAVAILABLE),
    (WeightsMissing, HTTPStatus.SERVICE_UNAVAILABLE),
    (TransientError, HTTPStatus.SERVICE_UNAVAILABLE),
    (LibraryUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (NotFound, HTTPStatus.NOT_FOUND),
    (ConfigurationError, HTTPStatus.BAD_REQUEST),
    (EmbedAssetsError, HTTPStatus.INTERNAL_SERVER_ERROR),
)
"""The status of each error; the first matching class counts."""


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "An option or a condition is wrong.",
        401: "The token is missing or wrong.",
        404: "There is no such track.",
        408: "The body did not arrive in time.",
        409: "Both ends of a path are the same audio.",
        413: "The body is too large.",
        422: "The request does not fit the schema.",
        429: "Too many queries at once.",
        503: "Not indexed yet, weights are missing, or a temporary failure; see `Retry-After`.",
    }.items()
}
"""The errors of each route, for the OpenAPI document."""


def problem(path: str, status: HTTPStatus, detail: str) -> Response:
    """An error in the form of RFC 9457, or in AudioMuse's where that is what is spoken."""
    wait = {"Retry-After": str(RETRY_SECONDS)} if status in _LATER else None
    if path.startswith(AUDIOMUSE):
        return JSONResponse({"error": detail}, status, headers=wait)
    body = Problem(title=status.phrase, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, headers=wait, media_type=PROBLEM)


_LATER = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)


def path_of(scope: Scope) -> str:
    """The path of a request, without that of a proxy."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def add_handlers(app: FastAPI) -> None:
    """Answer every error of the app in the format of RFC 9457."""
    app.add_exception_handler(EmbedAssetsError, _ours)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_the_schema)
    app.add_exception_handler(Exception, _unknown)


async def _ours(request: Request, error: Exception) -> Response:
    status = next(status for cls, status in STATUS if isinstance(error, cls))
    return problem(path_of(request.scope), status, str(error))


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # for mypy
    answer = problem(path_of(request.scope), HTTPStatus(error.status_code), error.detail)
    answer.headers.update(error.headers or {})
    return answer


async def _of_the_schema(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # for mypy
    details = "; ".join(
        f"{'.'.join(map(str, e['loc'][1:]))}: {validation_message(e['msg'])}"
        for e in error.errors()[:5]
    )
    if "json" not in request.headers.get("content-type", "json"):
        details = "send the body as JSON, with the header Content-Type: application/json"
    path = path_of(request.scope)
    wrong = HTTPStatus.UNPROCESSABLE_ENTITY
    if path.startswith(AUDIOMUSE):
        wrong = HTTPStatus.BAD_REQUEST
    return problem(path, wrong, details or "the request cannot be read")


async def _unknown(request: Request, _: Exception) -> Response:  # uvicorn logs it
    return problem(
        path_of(request.scope),
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "an unexpected error: the log of `embed-assets serve` has it; please report it",
    )
