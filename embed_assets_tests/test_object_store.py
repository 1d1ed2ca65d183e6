"""An object store that is away, full of errors or set wrongly: what is said, and what is not lost.

moto is the store where it can do what the test is about; a few answers that it never gives come
from a server of some lines.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from embed_assets.errors import ConfigurationError, EmbedAssetsError, TransientError
from embed_assets.settings import Settings
from embed_assets.storage import object_client, object_errors
from embed_assets.storage.object_store import ObjectStore
from embed_assets.storage.vector_store import VectorsLost, Wanted
from embed_assets.storage.vectors_address import FORMS, normal_vectors_address, parts_of
from embed_assets_tests.object_server import (
    LOGIN,
    ObjectServer,
    client_of,
    names_in,
    put_raw,
)

RECIPE, HASH = "a" * 32, "b7" * 16
NAME = f"{RECIPE}/b7/{HASH}.npy"
WINDOWS = np.arange(96, dtype=np.float32).reshape(3, 1, 32)


@pytest.fixture
def store(bucket: str, tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"s3://{bucket}/vectors", tmp_path / "home", 10**9)


def every_call(store: ObjectStore) -> dict[str, Any]:
    return {
        "write": lambda: store.write(RECIPE, HASH, WINDOWS),
        "replace": lambda: store.write(RECIPE, HASH, WINDOWS, replace=True),
        "read": lambda: store.read(RECIPE, HASH),
        "read many": lambda: list(store.read_many(RECIPE, [Wanted(HASH), Wanted("cd" * 16)])),
        "delete": lambda: store.delete(RECIPE, [HASH]),
        "recipes": lambda: list(store.recipes()),
        "entries": lambda: list(store.entries(RECIPE)),
        "now": store.now,
        "check": store.check,
    }


def problems(store: ObjectStore, *names: str) -> dict[str, EmbedAssetsError]:
    """What these calls, or all, raise; nothing that is raised shows a secret."""
    found = {}
    calls = every_call(store)
    for name in names or calls:
        call = calls[name]
        with pytest.raises(EmbedAssetsError) as caught:
            call()
        error = caught.value
        assert not isinstance(error, VectorsLost), f"{name} takes it for lost vectors"
        shown = "".join(traceback.format_exception(error)) + repr(store)
        assert LOGIN["AWS_SECRET_ACCESS_KEY"] not in shown
        assert "obstore" not in type(error.__context__).__module__
        assert "Debug source" not in shown, f"{name}: Dagster would store the text of obstore"
        found[name] = error
    return found


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("s3://music/my/vectors/", "s3://music/my/vectors"),
        (" S3://music ", "s3://music"),
        ("s3a://music//x", "s3://music/x"),
        ("gs://music/x", "gs://music/x"),
        ("azure://music/x", "az://music/x"),
        ("file:///mnt/my%20music/", "/mnt/my music"),
        ("/mnt/vectors/", "/mnt/vectors"),
    ],
)
def test_an_address_has_one_form(text: str, normal: str) -> None:
    assert Settings(_env_file=None, vectors=text).vectors == normal
    assert normal_vectors_address(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        *("music", "./x", "http://host/bucket", "s3://", "s3:///x", "ftp://x/y", "s3://a/../b"),
        *("s3://key:secret@bucket/x", "s3://bucket/x?secret=1", "file://host/x"),
        *("~nobody-of-that-name/x", "file:///a%00b"),
    ],
)
def test_a_wrong_address_is_refused_with_the_forms_that_there_are(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(vectors=text)
    assert "EMBED_VECTORS=" in str(caught.value)
    assert FORMS in str(caught.value)
    assert "key:secret" not in str(caught.value)


def test_a_bucket_with_too_short_a_name_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'x' cannot be the name of a bucket"):
        Settings.load(vectors="s3://x/y")
    with pytest.raises(ConfigurationError, match="names no bucket"):
        Settings.load(vectors="s3://")


def test_the_parts_of_an_address() -> None:
    assert parts_of("s3://music/my/vectors") == ("s3", "music", "my/vectors")
    assert parts_of("az://music") == ("az", "music", "")


def test_a_server_that_is_away_is_waited_for_and_nothing_is_lost(
    object_server: ObjectServer, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_client, "RETRYING", timedelta(seconds=0.2))
    monkeypatch.setattr(object_client, "PAUSE_SECONDS", 0.0)
    store.write(RECIPE, HASH, WINDOWS)
    object_server.kill()
    for name, error in problems(store, "write", "read many", "entries").items():
        assert isinstance(error, TransientError), name
        assert f"{store.address} (at 127.0.0.1:{object_server.port})" in str(error)
        assert "it cannot be reached; check that the server is up" in str(error)
    object_server.start()
    make_bucket_again(object_server, store)
    store.write(RECIPE, HASH, WINDOWS)
    np.testing.assert_array_equal(store.read(RECIPE, HASH), WINDOWS)


def make_bucket_again(server: ObjectServer, store: ObjectStore) -> None:
    """A server that was killed has forgotten all; each test has a bucket of its own."""
    httpx.put(f"{server.url}/{parts_of(store.address)[1]}").raise_for_status()


def test_a_step_over_many_tracks_does_not_wait_for_each_while_the_server_is_away(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_client, "RETRYING", timedelta(seconds=0.2))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = ObjectStore(f"s3://{bucket}", tmp_path)
    asked = time.monotonic()
    for _ in range(1000):
        with pytest.raises(TransientError, match="it cannot be reached"):
            store.read(RECIPE, HASH)
    assert time.monotonic() - asked < 60
    object_client.server_of(store.address).silent_until = 0.0


def test_a_server_that_hangs_is_given_up_in_time(
    object_server: ObjectServer, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_client, "TIMEOUT", timedelta(seconds=0.5))
    monkeypatch.setattr(object_client, "RETRYING", timedelta(seconds=0.2))
    monkeypatch.setattr(object_client, "PAUSE_SECONDS", 0.0)
    started = time.monotonic()
    with object_server.frozen():
        for call in ("write", "read", "entries"):
            with pytest.raises(TransientError, match="it did not answer in time"):
                every_call(store)[call]()
    assert time.monotonic() - started < 60
    store.write(RECIPE, HASH, WINDOWS)


def test_a_bucket_that_is_missing_is_named_and_no_vectors_are_taken_for_lost(
    bucket: str, tmp_path: Path
) -> None:
    store = ObjectStore("s3://not-there/vectors", tmp_path)
    for name, error in problems(store).items():
        assert isinstance(error, ConfigurationError), name
        assert "there is no bucket 'not-there'" in str(error)


@contextmanager
def answering(status: int, code: str, method: str = "") -> Iterator[str]:
    """A server that answers each request (of a method) with an error, and others with success."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            wrong = not method or (self.command == method and self.headers.get("If-None-Match"))
            body = f"<Error><Code>{code}</Code></Error>".encode() if wrong else b""
            self.send_response(status if wrong else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"x"')
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        (403, "AccessDenied", ConfigurationError, "the login is refused (403 AccessDenied)"),
        (403, "SignatureDoesNotMatch", ConfigurationError, "AWS_SECRET_ACCESS_KEY"),
        (404, "", ConfigurationError, "404: check EMBED_VECTORS"),
        (400, "ExpiredToken", ConfigurationError, "400 ExpiredToken"),
        (400, "RequestTimeout", TransientError, "400 RequestTimeout"),
        (503, "SlowDown", TransientError, "503 SlowDown"),
        (500, "InternalError", TransientError, "500 InternalError"),
    ],
)
def test_what_a_store_answers_is_waited_for_or_is_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: Any, said: str
) -> None:
    monkeypatch.setattr(object_client, "RETRYING", timedelta(seconds=0.05))
    monkeypatch.setattr(object_client, "PAUSE_SECONDS", 0.0)
    with answering(status, code) as url:
        for name, value in (LOGIN | {"AWS_ENDPOINT_URL": url}).items():
            monkeypatch.setenv(name, value)
        store = ObjectStore(f"s3://bucket-{code.lower()}", tmp_path)
        for name, error in problems(store, "read", "write", "entries").items():
            assert isinstance(error, kind), name
            assert said in str(error)


def test_a_store_that_cannot_put_if_absent_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    monkeypatch.setattr(object_client, "RETRYING", timedelta(seconds=0.05))
    with answering(501, "NotImplemented", "PUT") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        ObjectStore("s3://old-server", tmp_path).write(RECIPE, HASH, WINDOWS)
    monkeypatch.undo()


def test_put_if_absent_may_be_turned_off(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.check().endswith("written, read, listed and deleted")
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    other = ObjectStore(f"{store.address}/other", store.home)
    other.write(RECIPE, HASH, WINDOWS)
    other.write(RECIPE, HASH, WINDOWS + 1)
    np.testing.assert_array_equal(other.read(RECIPE, HASH), WINDOWS + 1)
    assert "cannot put objects only if absent" in other.check()


def test_without_a_login_it_is_said_which_variables_have_it(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_client, "RETRYING", timedelta(seconds=0.05))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = ObjectStore(f"s3://{bucket}", tmp_path)
    (error,) = problems(store, "read").values()
    assert isinstance(error, ConfigurationError)
    assert "no login was found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(error)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AWS_ENDPOINT_URL", "minio:9000", "AWS_ENDPOINT_URL is not the address of a server"),
        ("AWS_ENDPOINT_URL", "http://u:topsecret@a:99999", "AWS_ENDPOINT_URL is not the address"),
        ("AWS_SESSION_TOKEN", "topsecret\n", "cannot read one of the environment variables"),
        ("AWS_CONDITIONAL_PUT", "topsecret", "cannot read one of the environment variables"),
    ],
)
def test_variables_that_obstore_cannot_use_are_named_without_their_values(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    (error,) = problems(store, "read").values()
    assert isinstance(error, ConfigurationError)
    assert says in str(error)
    assert "topsecret" not in "".join(traceback.format_exception(error))


def test_a_machine_whose_role_is_refused_is_said_to_have_no_login() -> None:
    text = (
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 9ms"
        " - Server returned non-2xx status code: 403 Forbidden: denied"
    )
    error = object_errors.problem_of("read x", "s3://music", RuntimeError(text))
    assert isinstance(error, ConfigurationError)
    assert "no login was found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(error)


def test_without_obstore_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigurationError, match=r"pip install --editable '\.\[shared\]'"):
        ObjectStore("s3://music", tmp_path).read(RECIPE, HASH)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "minio:9000"),
        ("AWS_ENDPOINT_URL", "http://user:topsecret@a b"),
        ("AWS_ENDPOINT_URL", "http://user:topsecret@[::1"),
        ("AWS_CONDITIONAL_PUT", "topsecret"),
    ],
)
def test_a_variable_that_cannot_be_read_is_a_setting_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    object_client.server_of.cache_clear()
    with pytest.raises(ConfigurationError, match=name[:4]) as caught:
        ObjectStore("s3://bucket/prefix", tmp_path).read(RECIPE, HASH)
    assert "topsecret" not in "".join(traceback.format_exception(caught.value))


def test_a_copy_on_this_machine_is_used_only_for_what_the_tables_mean(store: ObjectStore) -> None:
    store.write(RECIPE, HASH, WINDOWS, embedded_at=100)
    put_raw(store, NAME, b"damaged meanwhile")

    def read(at: int | None) -> Any:
        return next(store.read_many(RECIPE, [Wanted(HASH, at)], keep=True))

    np.testing.assert_array_equal(read(100), WINDOWS)
    assert isinstance(read(None), VectorsLost)
    assert isinstance(read(101), VectorsLost)
    other = ObjectStore(store.address, store.home.with_name("another machine"), 10**9)
    other.write(RECIPE, HASH, WINDOWS + 1, embedded_at=102, replace=True)
    np.testing.assert_array_equal(read(100), WINDOWS)
    np.testing.assert_array_equal(read(102), WINDOWS + 1)


def test_a_damaged_copy_is_fetched_again(store: ObjectStore) -> None:
    store.write(RECIPE, HASH, WINDOWS, embedded_at=100)
    (copy,) = (p for p in (store.home / "cache").rglob("*") if p.is_file())
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    for _ in range(2):
        (found,) = store.read_many(RECIPE, [Wanted(HASH, 100)], keep=True)
        np.testing.assert_array_equal(found, WINDOWS)


def test_what_exists_already_is_kept_and_no_other_copy_of_it(store: ObjectStore) -> None:
    store.write(RECIPE, HASH, WINDOWS)
    store.write(RECIPE, HASH, WINDOWS + 1, embedded_at=100)
    (found,) = store.read_many(RECIPE, [Wanted(HASH, 100)])
    np.testing.assert_array_equal(found, WINDOWS)


def test_thousands_are_deleted_in_few_requests(store: ObjectStore) -> None:
    many = [f"{i:032x}" for i in range(1200)]
    store.write(RECIPE, many[0], WINDOWS)
    store.write(RECIPE, many[-1], WINDOWS)
    store.delete(RECIPE, many)
    assert names_in(store) == []
    assert client_of(store) is client_of(store)
