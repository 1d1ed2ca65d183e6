"""Music servers for tests: a real supysonic, and small ones that answer as the others were seen to.

The shapes of Navidrome, Jellyfin and Lyrion were recorded or read from their sources; see
docs/music-servers.md for what was run against a real one.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from embed_assets_tests.patience import PATIENCE

USER, PASSWORD = "somebody", "a pass word: 1"


@dataclass
class Supysonic:
    """A real Subsonic server over a folder."""

    home: Path
    music: Path
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cli(self, *words: str) -> str:
        command = [str(Path(sys.executable).with_name("supysonic-cli")), *words]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def scan(self) -> None:
        """Have it read its folder, as its users do."""
        self.cli("folder", "scan", "--foreground", "music")

    def _environment(self) -> dict[str, str]:
        return os.environ | {"HOME": str(self.home)}


@contextmanager
def supysonic(home: Path, music: Path) -> Iterator[Supysonic]:
    """A server that has scanned `music`."""
    home.mkdir()
    (home / ".supysonic").write_text(
        f"[base]\ndatabase_uri = sqlite:///{home}/db\n[webapp]\ncache_dir = {home}/cache\n"
        f"log_file = {home}/log\nmount_webui = off\n[daemon]\nsocket = {home}/socket\n"
    )
    made = Supysonic(home, music, free_port())
    made.cli("user", "add", USER, "-p", PASSWORD)
    made.cli("user", "setroles", "-A", USER)
    made.cli("folder", "add", "music", str(music))
    made.scan()
    command = [
        *(str(Path(sys.executable).with_name("supysonic-server")), "-S", "waitress"),
        *("-h", "127.0.0.1", "-p", str(made.port)),
    ]
    with open(home / "server.log", "wb") as log:
        process = subprocess.Popen(command, env=made._environment(), stdout=log, stderr=log)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                httpx.get(made.url, timeout=PATIENCE)
                break
            except httpx.HTTPError:
                assert time.monotonic() < until, (home / "server.log").read_text()
                time.sleep(0.05)
        yield made
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass
class Recorded:
    """A server that answers as one of `kind` does. `songs`: in the server's own form."""

    kind: str
    songs: list[dict[str, object]] = field(default_factory=list)
    scan: str = "2026-01-01T00:00:00Z"
    scanning: bool = False
    playlists: dict[str, list[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    logins: int = 0
    expire: bool = False
    away: bool = False
    events: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, query: dict[str, str], body: str, headers):
        """Status and JSON of a request."""
        self.asked.append(f"{method} {path}")
        if self.away:
            return 503, {}
        return getattr(self, f"_{self.kind}")(method, path, query, body, headers)

    def _navidrome(self, method, path, query, body, headers):
        if path == "/auth/login":
            login = json.loads(body)
            if (login["username"], login["password"]) != (USER, PASSWORD):
                return 401, {"error": "Invalid username or password"}
            self.logins += 1
            return 200, {"id": "u1", "name": USER, "token": f"jwt{self.logins}", "isAdmin": True}
        if path.startswith("/rest/"):
            return 200, {"subsonic-response": self._subsonic(path, urllib.parse.parse_qs(body))}
        if headers.get("X-ND-Authorization") != f"Bearer jwt{self.logins}" or self.expire:
            self.expire = False
            return 401, {"error": "Not authenticated"}
        if path == "/api/song":
            return 200, self.songs[int(query["_start"]) : int(query["_end"])]
        one = [song for song in self.songs if path == f"/api/song/{song['id']}"]
        return (200, one[0]) if one else (404, {"error": "data not found"})

    def _subsonic(self, path, form):
        ok = {"status": "ok", "version": "1.16.1", "type": "navidrome", "openSubsonic": True}
        match path.removeprefix("/rest/"):
            case "getScanStatus":
                status = {"scanning": self.scanning, "count": len(self.songs)}
                return ok | {"scanStatus": status | {"lastScan": self.scan}}
            case "getPlaylists":
                rows = [{"id": f"p-{n}", "name": n, "owner": USER} for n in self.playlists]
                return ok | {"playlists": {"playlist": rows}}
            case "createPlaylist":
                name = form.get("name", [form.get("playlistId", [""])[0][2:]])[0]
                self.playlists[name] = form.get("songId", [])
                return ok | {"playlist": {"id": f"p-{name}", "name": name}}
        return ok

    def _endless(self, method, path, query, body, headers):
        """A Subsonic server that gives the same page, whatever the offset."""
        found = {"status": "ok", "searchResult3": {"song": self.songs}}
        return 200, {"subsonic-response": found}

    def _jellyfin(self, method, path, query, body, headers):
        if path == "/Users/AuthenticateByName":
            login = json.loads(body)
            if (login["Username"], login["Pw"]) != (USER, PASSWORD):
                return 401, ""
            return 200, {"AccessToken": "key", "User": {"Id": "u1", "Name": USER}}
        if 'Token="key"' not in headers.get("Authorization", ""):
            return 401, ""
        if path == "/Users":
            return 200, [{"Id": "u1", "Name": USER}]
        if path == "/ScheduledTasks":
            state = "Running" if self.scanning else "Idle"
            last = {"EndTimeUtc": self.scan, "Status": "Completed"}
            task = {"Key": "RefreshLibrary", "State": state, "LastExecutionResult": last}
            return 200, [{"Key": "CleanLogFiles", "State": "Running"}, task]
        if path == "/Items" and query["IncludeItemTypes"] == "Playlist":
            return 200, {"Items": [{"Name": n, "Id": n.encode().hex()} for n in self.playlists]}
        if path == "/Items":
            found = self.songs
            if ids := query.get("Ids"):
                found = [song for song in found if song["Id"] in ids.split(",")]
            start = int(query.get("StartIndex", 0))
            return 200, {"Items": found[start : start + int(query.get("Limit", len(found) or 1))]}
        if path == "/Playlists":
            made = json.loads(body)
            self.playlists[made["Name"]] = made["Ids"]
            return 200, {"Id": made["Name"].encode().hex()}
        if path.startswith("/Playlists/"):
            name = bytes.fromhex(path.removeprefix("/Playlists/")).decode()
            self.playlists[name] = json.loads(body)["Ids"]
            return 204, None
        return 404, {}

    def _lyrion(self, method, path, query, body, headers):
        if path != "/jsonrpc.js":
            return 404, {}
        _, (command, *words) = json.loads(body)["params"]
        result: dict[str, object] = {}
        if command == "titles":
            result = {"count": len(self.songs), "titles_loop": self.songs[words[0] :][: words[1]]}
        elif command == "songinfo":
            number = words[2].removeprefix("track_id:")
            one = [song for song in self.songs if song["id"] == int(number)]
            result = {"songinfo_loop": [{k: v} for k, v in one[0].items()]} if one else {}
        elif command == "serverstatus":
            result = {"lastscan": self.scan} | ({"rescan": 1} if self.scanning else {})
        return 200, {"id": 1, "method": "slim.request", "result": result}


@contextmanager
def recorded(server: Recorded) -> Iterator[Recorded]:
    """The server, at `url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            path = re.sub("^/base", "", parts.path)
            if path == "/api/events":
                self._events()
                return
            status, found = server.answer(self.command, path, query, body, self.headers)
            text = b"" if found is None else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def _events(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            while not stopped.wait(0.02):
                while server.events:
                    event = server.events.pop(0)
                    self.wfile.write(f"id: 1\nevent: scanStatus\ndata: {event}\n\n".encode())
                    self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    stopped = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        server.url = f"http://127.0.0.1:{listening.server_port}/base"
        try:
            yield server
        finally:
            stopped.set()
            listening.shutdown()
