"""Which token may do what: the full token everything, the read token only queries."""

from __future__ import annotations

import pytest

from embed_assets.access import Tokens
from embed_assets.http.doors import acts
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.test_http import detail, running

FULL, READ = "the-full-token", "the-read-token"
ACTING = ("/v1/look", "/v1/playlists", "/v1/playlists/jazz", "/v1/not-there-yet", "/api/look")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    made = LiveProject(tmp_path_factory.mktemp("tokens"))
    made.library.mkdir(parents=True)
    return made


@pytest.fixture(scope="module")
def client(empty):
    with running(empty, Tokens(FULL, READ)) as client:
        yield client


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_the_read_token_asks_every_query(client):
    for headers in (bearer(READ), {"X-API-Key": READ}, bearer(FULL)):
        for path in ("/v1/status", "/v1/errors", "/metrics", "/openapi.json"):
            assert client.get(path, headers=headers).status_code == 200, path
        for path in ("/v1/similar", "/v1/radio", "/v1/parts"):
            answer = client.post(path, headers=headers, json={"seeds": ["blue"]})
            assert "nothing is indexed" in detail(answer, 503)


@pytest.mark.parametrize("path", ACTING)
def test_the_read_token_changes_nothing(client, path):
    for method in ("POST", "PUT", "DELETE"):
        answer = client.request(method, path, headers=bearer(READ))
        assert answer.status_code == 403
        assert "EMBED_HTTP_TOKEN; yours may only ask queries" in answer.text
        assert client.request(method, path, headers=bearer("no")).status_code == 401
        assert client.request(method, path, headers=bearer(FULL)).status_code not in (401, 403)


def test_no_other_token_and_no_token_is_let_in(client):
    for headers in (
        {},
        {"Authorization": "Bearer"},
        bearer(FULL + READ),
        bearer(FULL[:-1]),
        {"X-API-Key": ""},
    ):
        answer = client.get("/v1/status", headers=headers)
        assert "token" in detail(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").status_code == 200


def test_with_a_read_token_alone_nobody_changes_anything(empty):
    with running(empty, Tokens(read=READ)) as client:
        assert client.get("/v1/status", headers=bearer(READ)).status_code == 200
        for headers in ({}, {"Authorization": "Bearer"}, {"X-API-Key": ""}):
            assert client.get("/v1/status", headers=headers).status_code == 401
            assert client.post("/v1/look", headers=headers).status_code == 401
        refused = detail(client.post("/v1/look", headers=bearer(READ)), 403)
        assert "the server does not have" in refused


def test_without_tokens_everything_is_allowed(empty):
    with running(empty) as client:
        assert client.get("/v1/status").status_code == 200
        assert client.post("/v1/look").status_code not in (401, 403)


def test_what_is_not_known_to_be_a_query_acts():
    assert not acts("GET", "/v1/playlists")
    assert not acts("POST", "/v1/similar")
    for path in ("/v1/similar/", "/v1/similar/look", "//v1//look", "/api/look", "/v2/path", "/"):
        assert acts("POST", path), path
