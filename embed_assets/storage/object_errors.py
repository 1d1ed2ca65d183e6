"""What an error of an object store means: wait and try again, or a setting is wrong.

The texts of obstore contain addresses with their queries, which may hold signatures; only what is
picked out here is shown.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.storage.vectors_address import parts_of

_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_LOGINS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_REGION",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
VARIABLES = {"s3": "AWS_*", "gs": "GOOGLE_*", "az": "AZURE_*"}
"""Environment variables that obstore reads, by the kind of the store."""

_NO_OBJECT = frozenset({"NoSuchKey", "BlobNotFound"})
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_PASSING = frozenset({"408", "409", "429", "RequestTimeout", "SlowDown", "InternalError"})
_WITHOUT_LOGIN = re.compile(
    r"169\.254\.|/latest/(api/token|meta-data)|/computeMetadata/|/metadata/identity"
)


def endpoint(kind: str) -> str:
    """The address of the server that the environment names; empty: the provider's own.

    Raises:
        ConfigurationError: it cannot be an address; obstore would end the thread.
    """
    name = next((name for name in _ENDPOINTS[kind] if os.environ.get(name)), "")
    address = os.environ.get(name, "").strip()
    if address and not _is_http(address):
        # It may hold a login, so it is not shown.
        raise ConfigurationError(
            f"{name} is not the address of a server: write it as http://host:port, or https://host"
        )
    return address


def _is_http(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and not re.search(r"\s", address)
        )
    except ValueError:
        return False


def place(address: str) -> str:
    """An address for messages, with the server if it is not the provider's own."""
    server = urlsplit(endpoint(parts_of(address)[0])).netloc.rpartition("@")[2]
    return f"{address} (at {server})" if server else address


def is_missing_object(error: Exception) -> bool:
    """Whether only the object is missing."""
    return isinstance(error, FileNotFoundError) and _code(error) not in _NO_BUCKET


def is_certain(error: Exception) -> bool:
    """Whether an object store says that the object is missing: a web server says 404, too."""
    return _code(error) in _NO_OBJECT


def is_not_implemented(error: Exception) -> bool:
    """Whether the server does not know this kind of request."""
    return _status(error) == "501" or _code(error) == "NotImplemented"


def problem_of(what: str, address: str, error: Exception) -> TransientError | ConfigurationError:
    """What to raise for an error of obstore; `what`: what could not be done, e.g. `read x.npy`."""
    kind, bucket, _ = parts_of(address)
    said = f"could not {what} in {place(address)}"
    status, code = _status(error), _code(error)
    reason = " ".join(filter(None, [status, code])) or _unanswered(error)
    if code in _NO_BUCKET:
        return ConfigurationError(
            f"{said}: there is no bucket {bucket!r} ({reason}): create it, or correct EMBED_VECTORS"
        )
    if _WITHOUT_LOGIN.search(str(error)):
        return ConfigurationError(
            f"{said}: no login was found: set {_LOGINS[kind]} in the environment (docs/vectors.md)"
        )
    if status in ("401", "403") or type(error).__name__ in (
        "PermissionDeniedError",
        "UnauthenticatedError",
    ):
        return ConfigurationError(
            f"{said}: the login is refused ({reason}): check {_LOGINS[kind]}, and that it may read,"
            " write, list and delete there"
        )
    if status.startswith(("3", "4")) and status not in _PASSING and code not in _PASSING:
        return ConfigurationError(
            f"{said}: {reason}: check EMBED_VECTORS, the region (AWS_REGION) and the address of the"
            " server (AWS_ENDPOINT_URL)"
        )
    return TransientError(
        f"{said}: {reason}; check that the server is up and can be reached from this machine; it"
        " will be tried again"
    )


def _status(error: Exception) -> str:
    found = re.search(r"status code: (\d{3})", str(error))
    return found[1] if found else ""


def _code(error: Exception) -> str:
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else ""


def _unanswered(error: Exception) -> str:
    """Why there was no answer: the kind of error of the HTTP client."""
    found = re.search(r"kind: (Connect|Timeout|Request|Decode|Interrupted)\b", str(error))
    kinds = {"Connect": "it cannot be reached", "Timeout": "it did not answer in time"}
    return kinds.get(found[1] if found else "", "the connection failed")
