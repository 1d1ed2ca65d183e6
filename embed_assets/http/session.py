"""The cookie of the page: what a browser gets for the token, so that `<audio>` can be asked too."""

from __future__ import annotations

import hmac
import re
import time
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers

COOKIE = "embed_assets"

SECONDS = 90 * 86_400
"""How long a browser stays logged in; another token logs all out."""

_FORM = re.compile(r"(\d{1,12})\.([0-9a-f]{64})")


def is_token(given: bytes, token: bytes) -> bool:
    """Whether this is the token, in a time that says nothing of it."""
    return hmac.compare_digest(given, token)


def cookie_of(token: bytes, now: float | None = None) -> str:
    """The value of a new cookie: when it ends, and a proof that the token was known."""
    end = str(int(time.time() if now is None else now) + SECONDS)
    return f"{end}.{_proof(token, end)}"


def has_cookie(token: bytes, headers: Headers, now: float | None = None) -> bool:
    """Whether a request brings a cookie of this token that has not ended."""
    try:
        held = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return False
    found = _FORM.fullmatch(held.value) if held else None
    if found is None or int(found[1]) <= (time.time() if now is None else now):
        return False
    return hmac.compare_digest(found[2], _proof(token, found[1]))


def may_act(method: str, headers: Headers) -> bool:
    """Whether a request of a browser comes from our own page, or only reads.

    `SameSite` leaves in pages of other ports of this host. Where a browser does not say who asks
    (plain HTTP to another machine), JSON does: other origins would have to ask before sending it,
    and we never agree.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return True
    if site := headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _proof(token: bytes, end: str) -> str:
    return hmac.new(token, f"embed_assets page until {end}".encode(), sha256).hexdigest()
