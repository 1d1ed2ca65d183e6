"""The page's files, logging in to it, and the audio that it plays, over HTTP."""

from __future__ import annotations

import io
import os
import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import av
import httpx
import psutil
import pytest
from starlette.datastructures import Headers

from embed_assets.access import Tokens
from embed_assets.http import audio, session
from embed_assets.http.ranges import wanted_range
from embed_assets.library.open_track import open_track
from embed_assets.library.walk import walk
from embed_assets_tests.corpus import CONTAINERS
from embed_assets_tests.encoded import encode, riff
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.synth import music
from embed_assets_tests.test_asking import index
from embed_assets_tests.test_http import detail, running
from embed_assets_tests.test_http_serve import serving

TOKEN, READ_TOKEN = "a long token", "another one for queries"
SECONDS = 4.0
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    made = LiveProject(tmp_path_factory.mktemp("page"))
    made.library.mkdir(parents=True)
    made.put("Some/1.mp3", 1, title="Blue", artist="A")
    made.put("Some/2.flac", 2, title="Red", artist="B")
    for name in ("wma", "m4b", "wv", "aiff", "tta"):
        muxer, codec, fmt, rate = CONTAINERS[name]
        content = encode(music(SECONDS, 3, rate, 1), rate, muxer, codec, fmt)
        made.full(f"Old/x.{name}")
        os.makedirs(made.library / "Old", exist_ok=True)
        (made.library / f"Old/x.{name}").write_bytes(content)
    (made.library / "Old/link.mp3").symlink_to("../Some/1.mp3")
    index(made.project())
    return made


@pytest.fixture(scope="module")
def client(filled):
    with running(filled) as client:
        yield client


@pytest.fixture(scope="module")
def ids(client):
    rows = client.get("/v1/tracks", params={"n": 100}).json()["tracks"]
    return {row["path"]: row["track_id"] for row in rows}


def seconds_of(content):
    with av.open(io.BytesIO(content)) as container:
        return sum(f.samples / f.sample_rate for f in container.decode(audio=0))


# Audio


def test_a_track_is_played_as_it_is(client, filled, ids):
    answer = client.get(f"/v1/audio/{ids['Some/1.mp3']}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.content == (filled.library / "Some/1.mp3").read_bytes()
    head = client.head(f"/v1/audio/{ids['Some/1.mp3']}")
    assert head.headers["content-length"] == str(len(answer.content))
    assert head.content == b""
    linked = client.get(f"/v1/audio/{ids['Old/link.mp3']}")
    assert linked.content == answer.content


def test_players_can_seek_with_ranges(client, filled, ids):
    url, whole = f"/v1/audio/{ids['Some/2.flac']}", (filled.library / "Some/2.flac").read_bytes()
    size = len(whole)
    for asked, begin, end in (
        ("bytes=0-", 0, size),
        ("bytes=10-19", 10, 20),
        ("bytes=-7", size - 7, size),
        (f"bytes=5-{size * 9}", 5, size),
    ):
        answer = client.get(url, headers={"Range": asked})
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
        assert answer.content == whole[begin:end]
    for beyond in (f"bytes={size}-", "bytes=-0"):
        answer = client.get(url, headers={"Range": beyond})
        assert str(size) in detail(answer, 416)
        assert answer.headers["content-range"] == f"bytes */{size}"
    for unread in ("bytes=x-", "bytes=0-1,5-6", "lines=1-2", "bytes=9-3", "bytes=-"):
        assert client.get(url, headers={"Range": unread}).status_code == 200


def test_a_range_of_a_file_that_has_changed_is_answered_with_all_of_it(client, ids):
    url = f"/v1/audio/{ids['Some/2.flac']}"
    etag = client.head(url).headers["etag"]
    for asked, status in ((etag, 206), ('"older"', 200), ("Sat, 01 Jan 2000 00:00:00 GMT", 200)):
        headers = {"Range": "bytes=0-1", "If-Range": asked}
        assert client.get(url, headers=headers).status_code == status
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304


@pytest.mark.parametrize("name", ["wma", "m4b", "wv", "aiff", "tta"])
def test_what_browsers_cannot_play_is_converted(client, ids, name):
    answer = client.get(f"/v1/audio/{ids[f'Old/x.{name}']}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.headers["accept-ranges"] == "none"
    assert seconds_of(answer.content) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("opus", "audio/ogg; codecs=opus"), ("mp3", "audio/mpeg"), ("wav", "audio/wav")],
)
def test_a_client_chooses_the_format_and_where_it_begins(client, ids, name, media_type):
    url = f"/v1/audio/{ids['Some/2.flac']}"
    whole, rest = (client.get(url, params={"as": name, "start": s}) for s in (0, 1))
    assert whole.headers["content-type"] == rest.headers["content-type"] == media_type
    assert client.head(url, params={"as": name}).headers["content-type"] == media_type
    gone = seconds_of(whole.content) - seconds_of(rest.content)
    assert gone == pytest.approx(1.0, abs=0.2)


def test_accept_names_the_format_of_what_must_be_converted(client, ids):
    def kind(accept, path="Old/x.wma"):
        url = f"/v1/audio/{ids[path]}"
        return client.head(url, headers={"Accept": accept}).headers["content-type"]

    assert kind("audio/ogg") == "audio/ogg; codecs=opus"
    assert kind("audio/wav") == "audio/wav"
    assert kind("*/*") == "audio/mpeg"
    assert kind("audio/ogg", "Some/1.mp3") == "audio/mpeg"
    original = client.get(f"/v1/audio/{ids['Old/x.wma']}", params={"as": "original"})
    assert original.headers["content-type"] == "application/octet-stream"


def test_it_plays_tracks_of_the_index_only(client, ids, filled):
    assert "no indexed track" in detail(client.get(f"/v1/audio/{'0' * 32}"), 404)
    for name in ("Some%2F1.mp3", "..%2Fhome%2Ftables.sqlite", ids["Some/1.mp3"] + "%00"):
        assert client.get(f"/v1/audio/{name}").status_code in (404, 422)
    behind = client.get(f"/v1/audio/{ids['Some/2.flac']}", params={"as": "mp3", "start": 99})
    assert "cannot be decoded" in detail(behind, 503)


@contextmanager
def instead(path, make):
    """Another thing at a path for a while."""
    kept = path.with_name("kept aside")
    path.rename(kept)
    try:
        make(path)
        yield
    finally:
        if path.is_symlink() or path.is_file():
            path.unlink()
        kept.rename(path)


def test_a_link_out_of_the_library_is_not_followed(client, filled, ids):
    url, secret = f"/v1/audio/{ids['Some/1.mp3']}", filled.root / "secret.mp3"
    secret.write_bytes(b"secret")
    with instead(filled.library / "Some/1.mp3", lambda p: p.symlink_to(secret)):
        assert "no longer in the library" in detail(client.get(url), 404)
    outside = filled.root / "outside"
    outside.mkdir()
    (outside / "1.mp3").write_bytes(b"secret")
    with instead(filled.library / "Some", lambda p: p.symlink_to(outside)):
        detail(client.get(url), 404)
    with instead(filled.library / "Some/1.mp3", os.mkfifo):
        detail(client.get(url), 404)
    assert client.get(url).status_code == 200


def test_what_is_opened_is_what_the_walk_lists(tmp_path):
    library, outside = tmp_path / "library", tmp_path / "outside"
    for folder in (library / "a/b", outside):
        folder.mkdir(parents=True)
        (folder / "x.mp3").write_bytes(b"x")
    (library / "a/to a file.mp3").symlink_to("b/x.mp3")
    (library / "a/out.mp3").symlink_to(outside / "x.mp3")
    (library / "a/broken.mp3").symlink_to("nowhere.mp3")
    (library / "a/loop.mp3").symlink_to("loop.mp3")
    (library / "linked").symlink_to("a")
    for name in ("a/b/x.mp3", "a/to a file.mp3"):
        os.close(open_track(library, name.encode()))
    nothing = ("a/out.mp3", "a/broken.mp3", "a/loop.mp3", "linked/b/x.mp3", "a/b", "", "a//b/x.mp3")
    climbing = (
        "../outside/x.mp3",
        "a/../a/b/x.mp3",
        "/etc/passwd",
        "a/b/x.mp3/",
        "linked/to a file.mp3",
    )
    for name in (*nothing, *climbing):
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            open_track(library, name.encode())
    assert {f.path: f.files for f in walk(library)} == {b"a": 1, b"a/b": 1}


def test_a_file_or_a_library_that_is_gone_is_said_to_be(client, filled, ids):
    url = f"/v1/audio/{ids['Some/1.mp3']}"
    file, aside = filled.library / "Some/1.mp3", filled.root / "aside"
    file.rename(aside)
    try:
        assert "Some/1.mp3 is no longer in the library" in detail(client.get(url), 404)
    finally:
        aside.rename(file)
    filled.library.rename(aside)
    try:
        answer = client.get(url)
        assert "mounted" in detail(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
    finally:
        aside.rename(filled.library)


def decoders():
    children = psutil.Process().children(recursive=True)
    found = []
    for child in children:
        try:
            if "embed_assets.audio.transcode" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def hours_of_silence(path):
    path.write_bytes(riff(44_100, 2, 16, b"", says=1 << 30))
    os.truncate(path, 1 << 30)


def test_a_client_that_goes_away_ends_its_decoder(client, filled, ids, monkeypatch):
    monkeypatch.setenv("EMBED_HTTP_TOKEN", TOKEN)
    with instead(filled.library / "Old/x.wv", hours_of_silence):
        url = f"{client.base_url}/v1/audio/{ids['Old/x.wv']}?as=wav"
        with httpx.stream("GET", url) as answer:
            pieces = answer.iter_raw()
            assert len(next(pieces)) > 0
            (decoder,) = decoders()
            # It reads files of strangers: no token is in its reach.
            assert not any(name.startswith("EMBED_") for name in decoder.environ())
        until = time.monotonic() + PATIENCE
        while decoders() and time.monotonic() < until:
            time.sleep(0.05)
        assert not decoders()
        # Its place is free again.
        for _ in range(2 * audio.MOST_CONVERTED):
            with httpx.stream("GET", url) as answer:
                assert answer.status_code == 200
            while decoders() and time.monotonic() < until:
                time.sleep(0.05)


def test_the_server_stops_though_somebody_listens(filled, ids):
    silence = filled.library / "Old/x.tta"
    with instead(silence, hours_of_silence), serving(filled) as (client, process):
        for name in ("original", "wav"):
            url = f"/v1/audio/{ids['Old/x.tta']}"
            answer = client.send(client.build_request("GET", url, params={"as": name}), stream=True)
            assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_file_that_gives_no_audio_holds_no_place(client, ids, monkeypatch):
    url = f"/v1/audio/{ids['Old/x.wma']}"
    monkeypatch.setattr(audio, "FIRST_SECONDS", 0.0)
    for _ in range(2 * audio.MOST_CONVERTED):
        assert "cannot be decoded" in detail(client.get(url), 503)
    monkeypatch.undo()
    assert not decoders()
    assert client.get(url).status_code == 200


def test_too_many_at_once_are_asked_to_come_back_and_queries_are_answered(client, ids, monkeypatch):
    monkeypatch.setattr(audio, "MOST_CONVERTED", 0)
    answer = client.get(f"/v1/audio/{ids['Old/x.wma']}")
    assert "too many tracks" in detail(answer, 429)
    assert client.get(f"/v1/audio/{ids['Some/1.mp3']}").status_code == 200
    assert client.post("/v1/similar", json={"seeds": ["red"]}).status_code == 200
    monkeypatch.setattr(audio, "MOST_STREAMS", 0)
    assert client.get(f"/v1/audio/{ids['Some/1.mp3']}").status_code == 429


def test_ranges_are_read_as_the_standard_has_them():
    def wanted(text, size=100):
        return wanted_range(Headers({"range": text}), size, '"e"')

    assert wanted("bytes=0-0") == (0, 1)
    assert wanted("bytes=-1000") == (0, 100)
    assert wanted("bytes= 3-") == (3, 100)
    assert wanted("") is wanted("bytes") is wanted("bytes=a-b") is None
    with pytest.raises(ValueError, match="no such bytes"):
        wanted("bytes=0-", 0)


# The page


def test_the_page_and_all_that_it_loads_are_there(client):
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    names = re.findall(r'(?:src|href)="([^"#]+)"', answer.text)
    assert names
    seen = set()
    while names:
        name = names.pop()
        assert re.fullmatch(r"page/[a-z_]+\.(js|css|svg)", name), name
        if name in seen:
            continue
        seen.add(name)
        file = client.get(f"/{name}")
        assert file.status_code == 200, name
        imported = re.findall(r'from "\./([a-z_]+\.js)"', file.text)
        names += [f"page/{one}" for one in imported]
    there = {f"page/{p.name}" for p in (Path(audio.__file__).parent / "page").iterdir()}
    assert seen == there - {"page/index.html"}


def test_browsers_keep_the_page_and_ask_whether_it_is_the_same(client):
    for path in ("/", "/page/app.js"):
        answer = client.get(path)
        assert answer.headers["cache-control"] == "no-cache"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "unsafe" not in policy
        again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        assert again.content == b""
        assert client.head(path).status_code == 200


def test_the_page_has_no_other_files(client):
    for name in ("nothing.js", "..%2Fapp.py", "%2e%2e%2fapp.py", "index.html%00", ""):
        assert client.get(f"/page/{name}").status_code in (404, 405)


# Logging in


@pytest.fixture(scope="module")
def guarded(filled):
    with running(filled, Tokens(TOKEN, READ_TOKEN)) as client:
        yield client


@pytest.fixture
def browser(guarded):
    """A client without cookies of other tests."""
    guarded.cookies.clear()
    yield guarded
    guarded.cookies.clear()


def log_in(client, token=TOKEN, **headers):
    return client.post("/page/login", json={"token": token}, headers=headers)


def test_the_page_needs_no_token_and_the_library_does(browser, ids):
    assert browser.get("/").status_code == browser.get("/page/app.js").status_code == 200
    assert browser.get("/v1/status").status_code == 401
    assert browser.get(f"/v1/audio/{ids['Some/1.mp3']}").status_code == 401
    assert browser.get("/page/../v1/status").status_code == 401


def test_a_browser_logs_in_with_the_token_and_out_again(browser, ids):
    assert detail(log_in(browser, "wrong"), 401) == "the token is wrong"
    assert browser.get("/v1/status").status_code == 401
    answer = log_in(browser)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/;" in cookie
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    assert browser.get("/v1/status").status_code == 200
    assert browser.get(f"/v1/audio/{ids['Some/1.mp3']}").status_code == 200
    assert browser.post("/v1/similar", json={"seeds": ["red"]}).status_code == 200
    assert browser.post("/page/logout", headers=JSON).status_code == 204
    assert browser.get("/v1/status").status_code == 401


def test_other_sites_cannot_act_with_the_cookie(browser):
    log_in(browser)
    body = b'{"seeds": ["red"]}'
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        JSON | {"Sec-Fetch-Site": "cross-site"},
        JSON | {"Sec-Fetch-Site": "same-site"},
    ):
        assert detail(browser.post("/v1/similar", content=body, headers=headers), 403)
    same = JSON | {"Sec-Fetch-Site": "same-origin"}
    assert browser.post("/v1/similar", content=body, headers=same).status_code == 200
    # Who knows the token is no site that a browser happens to visit.
    known = {"X-API-Key": TOKEN, "Sec-Fetch-Site": "cross-site"} | JSON
    assert browser.post("/v1/similar", content=body, headers=known).status_code == 200


def test_the_read_token_logs_in_to_ask_only(browser):
    assert log_in(browser, READ_TOKEN).status_code == 204
    assert browser.post("/v1/similar", json={"seeds": ["red"]}).status_code == 200
    assert "may only ask" in detail(browser.post("/v1/look", headers=JSON), 403)
    log_in(browser)
    assert browser.post("/v1/look", headers=JSON).status_code == 202


def test_without_a_token_other_sites_cannot_act_either(client):
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 202)):
        answer = client.post("/v1/look", headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status
    assert client.post("/v1/look").status_code == 202


def test_other_sites_cannot_load_what_is_played(client, ids):
    for url in ("/", "/v1/status", f"/v1/audio/{ids['Some/1.mp3']}"):
        assert client.get(url).headers["cross-origin-resource-policy"] == "same-origin"


def test_a_cookie_ends_and_belongs_to_its_token():
    def request(value):
        return Headers({"cookie": f"other=1; {session.COOKIE}={value}"})

    good = session.cookie_of("token", now=1000.0)
    assert session.has_cookie("token", request(good), now=1001.0)
    assert not session.has_cookie("token", request(good), now=1001.0 + session.SECONDS)
    assert not session.has_cookie("other", request(good), now=1001.0)
    later = f"9{good}"
    assert not session.has_cookie("token", request(later), now=1001.0)
    for wrong in ("", "x", good[:-1], f"{good}0", '"', "=;"):
        assert not session.has_cookie("token", request(wrong), now=1001.0)


@pytest.mark.parametrize("other", ['prefs={"a": 1}', "a=b c", "user={x}, y", "a@b[0]=1"])
def test_cookies_of_other_programs_on_this_host_log_nobody_out(other):
    good = f"{session.COOKIE}={session.cookie_of('token', now=1000.0)}"
    for cookie in (f"{other}; {good}", f"{good}; {other}"):
        assert session.has_cookie("token", Headers({"cookie": cookie}), now=1001.0)


def test_behind_a_proxy_the_cookie_is_for_its_path_and_for_https(filled):
    with serving(filled, "--root-path", "/music", EMBED_HTTP_TOKEN="token") as (client, _):
        assert client.get("/").status_code == client.get("/page/app.js").status_code == 200
        answer = log_in(client, "token", **{"X-Forwarded-Proto": "https"})
        assert "Path=/music/;" in answer.headers["set-cookie"]
        assert "Secure" in answer.headers["set-cookie"]


# What the page shows of an import


def test_status_says_how_long_an_import_takes_and_where_dagster_is(client, filled):
    before = client.get("/v1/status").json()
    assert (before["pending"], before["rate"], before["eta"], before["ui"]) == (0, 0, None, None)
    tables, now = filled.project().tables, time.time()
    note = filled.home / "dagster/up.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    with tables.transaction() as db:
        kept = db.execute("SELECT audio_hash, at FROM embeddings ORDER BY audio_hash").fetchall()
        for i, (audio_hash, _) in enumerate(kept):
            db.execute(
                "UPDATE embeddings SET at = ? WHERE audio_hash = ?", (now - 10 * i, audio_hash)
            )
        db.execute("UPDATE tracks SET audio_hash = ? WHERE path = ?", ("e" * 32, b"Some/1.mp3"))
    try:
        note.write_text(f'{{"address": "http://127.0.0.1:3000", "session": {os.getpid()}}}')
        status = client.get("/v1/status").json()
        assert status["pending"] == 1
        assert 0.05 < status["rate"] < 0.2
        assert status["eta"] == pytest.approx(1 / status["rate"])
        assert status["ui"] == "http://127.0.0.1:3000"
        note.write_text('{"address": "http://127.0.0.1:3000", "session": 999999999}')
        assert client.get("/v1/status").json()["ui"] is None
    finally:
        note.unlink()
        with tables.transaction() as db:
            for audio_hash, at in kept:
                db.execute("UPDATE embeddings SET at = ? WHERE audio_hash = ?", (at, audio_hash))


def test_modules_of_the_page_import_what_others_export():
    folder = Path(audio.__file__).parent / "page"
    definition = re.compile(r"^export (?:async )?(?:function|const|class) ([\w$]+)", re.M)
    exported = {
        file.name: set(definition.findall(file.read_text())) for file in folder.glob("*.js")
    }
    for file in folder.glob("*.js"):
        source = file.read_text()
        for names, other in re.findall(r'^import \{([^}]+)\} from "\./([\w.]+)"', source, re.M):
            wanted = {name.strip() for name in names.split(",") if name.strip()}
            assert wanted <= exported[other], (file.name, other)
        for alias, other in re.findall(r'^import \* as (\w+) from "\./([\w.]+)"', source, re.M):
            used = set(re.findall(rf"(?<!/)\b{alias}\.([\w$]+)", source))
            assert used <= exported[other], (file.name, other)
