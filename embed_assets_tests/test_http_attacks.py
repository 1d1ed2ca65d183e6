"""What strangers and pages of other sites try against `serve`, and clients that never end."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import psutil
import pytest

from embed_assets.access import Tokens
from embed_assets.http import connections
from embed_assets.servers import web
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.test_asking import index
from embed_assets_tests.test_http import running
from embed_assets_tests.test_http_serve import serving
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


def test_no_request_is_hidden_in_another(served):
    hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(served) as connection:
        connection.sendall(
            b"POST /v1/look HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden
        )
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1


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


OK = {"status": "ok", "version": "1.16.1", "type": "hostile"}


@dataclass
class Hostile:
    """A music server that answers well until it is told what else to say to a method."""

    says: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    hangs: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)
    heard: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def hostile():
    """The server, at `url`."""
    server = Hostile()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.heard.append(f"{self.requestline}\n{self.headers}".lower())
            if server.hangs.is_set():
                server.free.wait(PATIENCE)
            method = self.path.partition("?")[0].rpartition("/")[2]
            well = json.dumps({"subsonic-response": OK}).encode()
            text = server.says.get(method, server.says.get("*", well))
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 200

        def handle_error(self, *_: object) -> None:
            pass

    with Listening(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        server.url = f"http://127.0.0.1:{listening.server_port}"
        try:
            yield server
        finally:
            server.free.set()
            listening.shutdown()


@pytest.fixture
def behind(filled):
    """A hostile music server, and a client of `serve` with it."""
    with hostile() as server:
        filled.settings["EMBED_SERVERS"] = f"sub=subsonic+{server.url}"
        filled.settings["EMBED_SERVER_SUB_USER"] = "somebody"
        try:
            with running(filled, Tokens(TOKEN)) as client:
                yield server, client
        finally:
            del filled.settings["EMBED_SERVERS"], filled.settings["EMBED_SERVER_SUB_USER"]


def test_a_music_server_that_trusts_this_machine_hears_only_the_login_of_the_player(behind):
    server, client = behind
    sent = {"Remote-User": "admin", "X-Forwarded-For": "10.0.0.1", "X-Api-Key": TOKEN}
    sent |= {"Cookie": f"embed_assets={TOKEN}", "X-Nd-Authorization": "x", **BEARER}
    client.get("/rest/getUser", params={"u": "a", "p": "b"}, headers=sent)
    heard = next(one for one in server.heard if "getuser" in one)
    assert "u=a&p=b" in heard
    for word in ("remote-user", "x-forwarded-for", "x-nd-", "cookie", TOKEN):
        assert word not in heard


def test_a_page_from_a_music_server_cannot_act_at_our_address(behind):
    server, client = behind
    server.says["getCoverArt"] = b"<script>fetch('/v1/look', {method: 'POST'})</script>"
    server.headers = {"Content-Type": "text/html", "Content-Security-Policy": "default-src *"}
    server.headers |= {"Set-Cookie": "embed_assets=theirs", "Clear-Site-Data": '"*"'}
    headers = client.get("/rest/getCoverArt").headers
    assert headers["content-security-policy"].endswith("sandbox")
    assert "default-src *" not in headers["content-security-policy"]
    assert not {"set-cookie", "clear-site-data"} & set(headers)


@pytest.mark.parametrize(
    "said",
    [
        b"[" * 100_000,
        b"[]",
        b'{"subsonic-response": null}',
        b'{"subsonic-response": {"status": "failed", "error": ["x"]}}',
        b'{"subsonic-response": {"status": "failed", "error": {"code": "x", "message": []}}}',
        b'{"subsonic-response": {"status": "ok", "album": [1], "song": 3, "type": {}}}',
        b" " * 2_000,
    ],
)
def test_nonsense_of_a_music_server_is_no_error_of_ours(behind, said, monkeypatch):
    server, client = behind
    monkeypatch.setattr(web, "MOST_BYTES", 1_000 if said.isspace() else web.MOST_BYTES)
    server.says["*"] = said
    own = client.get("/api/similar_tracks", params={"item_id": "x"}, headers=BEARER)
    assert own.status_code in (404, 503), own.text
    for method in ("getSimilarSongs", "getSonicSimilarTracks"):
        answer = client.get(f"/rest/{method}", params={"id": "x", "f": "json"})
        assert answer.status_code == 200, answer.text
    assert client.get("/rest/getOpenSubsonicExtensions?f=json").status_code == 200


@pytest.mark.parametrize(
    "song",
    [
        b'{"id": "1", "size": NaN, "duration": Infinity}',
        b'{"id": "1", "size": 1000000000000000000000000000000, "duration": "1e999"}',
        b'{"id": "1", "duration": -5, "title": [], "path": "../\\u0000", "artists": "x"}',
        b'{"id": "\' OR 1=1 --\\u0000"}, {"id": null}, {"id": true}, 7',
    ],
)
def test_odd_songs_of_a_music_server_are_listed_and_are_no_track(behind, song):
    server, client = behind
    # The same page again and again, as of a server that does not know `songOffset`.
    server.says["search3"] = (
        b'{"subsonic-response": {"status": "ok", "searchResult3": {"song": [%b]}}}' % song
    )
    client.post(LOOK, params={"server": "sub"}, headers=BEARER)

    def state():
        return client.get("/v1/servers", headers=BEARER).json()[0]

    until(lambda: state()["items"] == 1)
    assert state() | {"listed_at": 0} == {
        "name": "sub",
        "items": 1,
        "mapped": 0,
        "unmatched": 1,
        "listed_at": 0,
        "problem": "",
    }


def test_a_music_server_that_hangs_holds_up_no_query(behind):
    server, client = behind
    server.hangs.set()

    def ask(path):
        with httpx.Client(base_url=client.base_url, timeout=PATIENCE) as another:
            another.get(path, headers=BEARER)

    paths = [f"/rest/getSimilarSongs?id={i}" for i in range(80)]
    paths += [f"/api/similar_tracks?item_id={i}" for i in range(20)]
    threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    try:
        until(lambda: sum("ping" in one for one in server.heard) >= 80)
        for _ in range(20):
            answer = client.get("/v1/similar", params={"seed": "Artist/1.flac"}, headers=BEARER)
            assert answer.status_code == 200, answer.text
    finally:
        server.free.set()
        for thread in threads:
            thread.join(PATIENCE)


def test_serve_ends_though_a_music_server_hangs(filled, monkeypatch):
    with hostile() as server:
        server.hangs.set()
        monkeypatch.setitem(filled.settings, "EMBED_SERVERS", f"sub=subsonic+{server.url}")
        with serving(filled) as (client, process):
            threading.Thread(
                target=lambda: suppressed(client, "/api/similar_tracks?item_id=x"), daemon=True
            ).start()
            until(lambda: server.heard)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            assert not server.free.is_set()


def suppressed(client, path):
    with suppress(httpx.HTTPError):
        client.get(path)


def test_similar_tracks_are_found_without_the_ids_of_music_servers(behind, filled):
    _, client = behind
    until(lambda: client.get("/v1/servers", headers=BEARER).json()[0]["listed_at"])
    file = filled.home / "servers.sqlite"
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("BEGIN EXCLUSIVE")
    try:
        db.execute("INSERT OR REPLACE INTO servers (name) VALUES ('other')")
        answer = client.get("/v1/similar", params={"seed": "Artist/1.flac"}, headers=BEARER).json()
        state = client.get("/v1/status", headers=BEARER)
    finally:
        db.execute("ROLLBACK")
        db.close()
    assert len(answer["matches"]) == 2
    assert any("servers.sqlite" in note for note in answer["notes"])
    assert "servers.sqlite" in state.json()["servers"][0]["problem"]


def test_a_process_that_reads_strangers_files_gets_no_token(filled, monkeypatch):
    monkeypatch.setenv("EMBED_HTTP_TOKEN", TOKEN)
    monkeypatch.setenv("EMBED_SERVER_SUB_PASSWORD", "secret")
    with running(filled) as client:
        track = client.get("/v1/tracks").json()["tracks"][-1]["track_id"]
        with client.stream("GET", f"/v1/audio/{track}?as=wav") as _:
            children = [
                p for p in psutil.Process().children(True) if "transcode" in str(p.cmdline())
            ]
            seen = [p.environ() for p in children]
    assert seen
    assert not [name for one in seen for name in one if name.startswith("EMBED_")]
