"""What strangers and pages of other sites try against `serve`, and clients that never end."""

from __future__ import annotations

import socket

import httpx
import psutil
import pytest

from embed_assets.access import Tokens
from embed_assets.http import connections
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.test_asking import index
from embed_assets_tests.test_http import running
from embed_assets_tests.test_music_servers import until

TOKEN = "a long token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LOOK = "/v1/look"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    made = LiveProject(tmp_path_factory.mktemp("attacks"))
    made.library.mkdir(parents=True)
    for i in range(3):
        made.put(f"Artist/{i}.flac", i, title=f"Song {i}")
    index(made.project())
    return made


@pytest.fixture
def served(filled):
    """A client of a server with the connections of `serve`."""
    with running(filled, http=connections.Connection) as client:
        yield client


def connected(client):
    address = client.base_url
    return socket.create_connection((address.host, address.port), timeout=PATIENCE)


def is_closed(connection):
    """Whether the server closes it, after whatever it still has to say."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
@pytest.mark.parametrize("path", ["/v1/tracks", "/", "/rest/ping"])
def test_a_page_that_gives_its_own_name_our_address_reads_nothing(served, host, path):
    answer = served.get(path, headers={"Host": host})
    assert answer.status_code == 403
    assert "EMBED_HTTP_TOKEN" in answer.json()["detail"]


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST", "a.localhost"]
)
def test_this_machine_is_asked_by_any_of_its_addresses(served, host):
    assert served.get("/v1/tracks", headers={"Host": host}).status_code == 200


def test_with_a_token_any_name_will_do(filled):
    with running(filled, Tokens(TOKEN)) as client:
        answer = client.get("/v1/tracks", headers={"Host": "music.example", **BEARER})
    assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_site_starts_no_scan_with_an_old_browser_either(served, origin):
    assert served.post(LOOK, headers={"Origin": origin}).status_code == 403
    ours = str(served.base_url).rstrip("/")
    assert served.post(LOOK, headers={"Origin": ours}).status_code == 202


def test_headers_that_never_end_are_refused(served):
    with connected(served) as endless:
        endless.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        with pytest.raises(ConnectionError):
            endless.sendall(b"a" * (64 << 20))
        assert served.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he",
    ],
)
def test_a_request_that_never_ends_is_given_up(served, begun, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    with connected(served) as slow:
        slow.sendall(begun)
        assert is_closed(slow)


def test_a_client_that_never_reads_is_given_up(filled, served, monkeypatch):
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.3)
    (filled.library / "Artist" / "0.flac").open("ab").truncate(64 << 20)
    track = served.get("/v1/tracks").json()["tracks"][0]["track_id"]
    with connected(served) as stalled:
        request = f"GET /v1/audio/{track}?as=original HTTP/1.1\r\nHost: localhost\r\n\r\n"
        stalled.sendall(request.encode())
        until(lambda: not is_held(stalled))


def is_held(connection):
    """Whether the server, which is in this process, still has its end of a connection."""
    ours = connection.getsockname()
    return any(c.raddr == ours for c in psutil.Process().net_connections("tcp"))


def test_many_connections_that_ask_nothing_keep_nobody_out(served):
    most = connections.MOST_CONNECTIONS
    held = [connected(served) for _ in range(most + 50)]
    try:
        for one in held[:10]:
            assert is_closed(one)
        with httpx.Client(base_url=served.base_url, timeout=PATIENCE) as another:
            assert another.get("/v1/tracks").status_code == 200
    finally:
        for one in held:
            one.close()
