"""The cookie of the page: what a browser gets for the token, so that `<audio>` can be asked too."""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

COOKIE = "embed_assets"

SECONDS = 90 * 86_400
"""How long a browser stays logged in; another token logs all out."""

_FORM = re.compile(r"(\d{1,12})\.([0-9a-f]{64})")


def is_token(given: str, token: str) -> bool:
    """Whether this is the token, in a time that says nothing of it; nothing is, without a token."""
    return hmac.compare_digest(given.encode(), token.encode()) and bool(token)


def cookie_of(token: str, now: float | None = None) -> str:
    """The value of a new cookie: when it ends, and a proof that the token was known."""
    end = str(int(time.time() if now is None else now) + SECONDS)
    return f"{end}.{_proof(token, end)}"


def has_cookie(token: str, headers: Headers, now: float | None = None) -> bool:
    """Whether a request brings a cookie of this token that has not ended."""
    # Browsers send the cookies of all ports of a host; `SimpleCookie` gives up at the first one of
    # another program that it cannot read.
    held = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    found = _FORM.fullmatch(held) if token else None
    if found is None or int(found[1]) <= (time.time() if now is None else now):
        return False
    return hmac.compare_digest(found[2], _proof(token, found[1]))


def is_here(host: str) -> bool:
    """Whether the header `Host` is an IP address or localhost, or not sent.

    Any page may give its own name the address 127.0.0.1 (DNS rebinding); browsers then take us for
    the server of that page. An address or localhost cannot be taken over in this way.
    """
    name = _name_of(host)
    if not name or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """The host of `host:port`, without brackets."""
    found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:]*))(?::\d*)?", host.strip())
    return (found[1] or found[2] or "").lower() if found else "?"


def is_foreign(method: str, headers: Headers, *, has_cookie: bool, needs_token: bool) -> bool:
    """Whether a page of another site may be asking for more than to read.

    `SameSite` leaves in pages of other ports of this host. Where a browser does not say who asks
    (plain HTTP to another machine), the cookie counts with JSON only: other origins would have to
    ask before sending it, and we never agree.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return False
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    if not needs_token:
        # Older browsers say at least from where a page asks.
        origin = headers.get("origin")
        return origin is not None and origin.partition("://")[2] != headers.get("host", "")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return has_cookie and media_type != "application/json"


def _proof(token: str, end: str) -> str:
    return hmac.new(token.encode(), f"embed_assets page until {end}".encode(), sha256).hexdigest()
