"""The page at `/`: its files, and logging in to it. All of it is in `page/`, without a build."""

from __future__ import annotations

from hashlib import blake2b
from http import HTTPStatus
from importlib import resources
from pathlib import PurePath

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from embed_assets.access import Tokens
from embed_assets.http import session

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: nothing from elsewhere, no code but its own files."""


class Login(BaseModel):
    """What the page sends to log in."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=4_096)


def page(tokens: Tokens) -> APIRouter:
    """The routes of the page; `tokens`: each of them logs in, and may do what it may do."""
    routes = APIRouter(include_in_schema=False)
    files = _files()

    async def index(request: Request) -> Response:
        return _answer(request, *files["index.html"])

    async def file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"the page has no file {name!r}")
        return _answer(request, *files[name])

    async def login(request: Request, given: Login) -> Response:
        both = (tokens.full, tokens.read)
        known = next((token for token in both if session.is_token(given.token, token)), "")
        if tokens and not known:
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "the token is wrong")
        answer = Response(status_code=HTTPStatus.NO_CONTENT)
        if known:
            answer.set_cookie(
                session.COOKIE,
                session.cookie_of(known),
                max_age=session.SECONDS,
                path=_root(request),
                secure=request.url.scheme == "https",
                httponly=True,
                samesite="strict",
            )
        return answer

    async def logout(request: Request) -> Response:
        answer = Response(status_code=HTTPStatus.NO_CONTENT)
        answer.delete_cookie(session.COOKIE, _root(request), httponly=True, samesite="strict")
        return answer

    reads = ["GET", "HEAD"]
    routes.add_api_route("/", index, methods=reads)
    routes.add_api_route("/page/login", login, methods=["POST"])
    routes.add_api_route("/page/logout", logout, methods=["POST"])
    routes.add_api_route("/page/{name}", file, methods=reads)
    return routes


def _files() -> dict[str, tuple[bytes, str, str]]:
    """Name -> content, media type and ETag of each file."""
    found = {}
    for file in resources.files(__package__).joinpath("page").iterdir():
        media_type = MEDIA_TYPES.get(PurePath(file.name).suffix)
        if media_type:
            content = file.read_bytes()
            etag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
            found[file.name] = (content, media_type, etag)
    return found


def _answer(request: Request, content: bytes, media_type: str, etag: str) -> Response:
    headers = {
        "ETag": etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
    }
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def _root(request: Request) -> str:
    return f"{request.scope.get('root_path', '').rstrip('/')}/"
