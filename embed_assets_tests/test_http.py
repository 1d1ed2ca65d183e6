"""Asking the library over HTTP: answers, errors, limits, and who may ask."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

import embed_assets as ea
from embed_assets.access import Tokens
from embed_assets.http import doors, problems
from embed_assets.http.app import create_app
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.test_asking import index

TOKEN = "a long token"
NO_TOKENS = Tokens()


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Six tracks and a copy of one, indexed with their parts; one file is no music."""
    made = LiveProject(tmp_path_factory.mktemp("http"), settings={"EMBED_PARTS": "true"})
    made.library.mkdir(parents=True)
    for i, genre in enumerate(("Jazz", "Acid Jazz", "Rock", "Rock")):
        made.put(f"Some/{i}.flac", i, title=f"Blue {i}", artist=f"A{i % 2}", genre=genre)
    made.put("Copies/0.flac", 0, title="Blue 0", artist="A0", genre="Jazz")
    made.put("Other/9.flac", 9, title="Red", artist="B")
    made.put_bad("Other/bad.flac", b"this is no music\n" * 50)
    index(made.project())
    return made


@contextmanager
def running(made, tokens=NO_TOKENS, **more):
    """A client of a server in this process."""
    app = create_app(ea.Library(made.made_settings()), tokens)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="error", **more))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until = time.monotonic() + PATIENCE
            while not server.started and time.monotonic() < until:
                time.sleep(0.01)
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=PATIENCE) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


@pytest.fixture(scope="module")
def client(filled):
    with running(filled) as client:
        yield client


def paths(answer):
    assert answer.status_code == 200, answer.text
    return [match["path"] for match in answer.json()["matches"]]


def detail(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    return body["detail"]


def test_similar_tracks_are_those_of_the_command_line(client, filled):
    lib = ea.Library(filled.made_settings())
    want = [m.path for m in lib.similar("Some/1.flac", n=3)]
    answer = client.post("/v1/similar", json={"seeds": ["Some/1.flac"], "n": 3})
    assert paths(answer) == want
    assert answer.json()["encoder"] == "acoustic"
    assert "Blue 1" in answer.json()["seeds"][0]
    first = answer.json()["matches"][0]
    assert first["ids"] == {}
    assert -1 <= first["score"] <= 1
    assert paths(client.get("/v1/similar", params={"seed": "Some/1.flac", "n": 3})) == want


def test_a_track_is_named_by_path_id_words_or_audio(client):
    row = client.get("/v1/tracks", params={"q": "blue 1"}).json()["tracks"][0]
    named = [row["path"], row["track_id"], "blue 1", {"audio_hash": row["audio_hash"]}]
    answers = [client.post("/v1/similar", json={"seeds": [one]}) for one in named]
    assert len({tuple(paths(a)) for a in answers}) == 1
    folder = client.post("/v1/similar", json={"seeds": ["Some"]})
    assert not any(path.startswith("Some/") for path in paths(folder))
    words = client.post("/v1/similar", json={"seeds": ["blue"]})
    assert re.search("took Blue 0 .*also fits", words.json()["notes"][0])


def test_conditions_thresholds_and_exclusions_hold(client):
    def ask(**more):
        return client.post("/v1/similar", json={"seeds": ["Other/9.flac"]} | more)

    assert set(paths(ask(where=["genre=jazz"]))) == {"Copies/0.flac", "Some/1.flac"}
    every = ask().json()["matches"]
    least = every[1]["score"]
    assert paths(ask(least=least)) == [m["path"] for m in every[:2]]
    assert paths(ask(exclude=[every[0]["track_id"]])) == [m["path"] for m in every[1:]]
    assert len(paths(ask(per_artist=1))) == 2
    assert every[0]["track_id"] not in paths(ask(avoid=[every[0]["track_id"]]))


def test_a_path_has_both_ends(client):
    way = paths(client.post("/v1/path", json={"start": "Some/1.flac", "end": "red", "steps": 4}))
    assert (way[0], way[-1], len(way)) == ("Some/1.flac", "Other/9.flac", 4)
    both = {"start": "Some/0.flac", "end": "Copies/0.flac"}
    assert "same audio" in detail(client.post("/v1/path", json=both), 409)


def test_a_radio_goes_on_with_what_was_not_played(client):
    def play(**more):
        query = {"seeds": ["Some/1.flac"], "random": 3, "n": 2} | more
        return client.post("/v1/radio", json=query).json()["matches"]

    first = play()
    assert [m["path"] for m in play()] == [m["path"] for m in first]
    rest = play(n=50, played=[m["track_id"] for m in first])
    assert rest
    assert not {m["path"] for m in rest} & {m["path"] for m in first}


def test_parts_say_where_they_are(client):
    answer = client.post("/v1/parts", json={"seeds": ["Some/1.flac"], "part": "0:00..0:02"})
    assert paths(answer)
    assert all(m["start"] < m["end"] for m in answer.json()["matches"])
    wrong = client.post("/v1/parts", json={"seeds": ["Some/1.flac"], "part": "later"})
    assert "write FROM..TO" in detail(wrong, 400)


@pytest.mark.parametrize(
    "how", [{"params": {"format": "m3u"}}, {"headers": {"Accept": "audio/x-mpegurl"}}]
)
def test_an_answer_can_be_a_playlist(client, how):
    answer = client.post("/v1/similar", json={"seeds": ["Some/1.flac"], "n": 2}, **how)
    assert answer.headers["content-type"].startswith("audio/x-mpegurl")
    lines = answer.text.splitlines()
    assert lines[0] == "#EXTM3U"
    assert len([line for line in lines if line.endswith(".flac")]) == 2


def test_tracks_come_in_pages(client):
    seen, after = [], ""
    while after is not None:
        page = client.get("/v1/tracks", params={"n": 2, "after": after}).json()
        seen += [t["path"] for t in page["tracks"]]
        after = page["after"]
    assert seen == sorted(seen)
    assert len(seen) == 6
    assert [t["path"] for t in client.get("/v1/tracks", params={"q": "red"}).json()["tracks"]] == [
        "Other/9.flac"
    ]


def test_errors_and_status_say_what_the_tables_do(client):
    (error,) = client.get("/v1/errors").json()
    assert (error["path"], error["folder"]) == ("Other/bad.flac", "Other")
    status = client.get("/v1/status").json()
    counted = (status["tracks"], status["embedded"], status["rejected"], status["pending"])
    assert counted == (7, 6, 1, 0)
    assert status["folders"] == status["folders_indexed"] == 3
    assert status["served"].startswith("tracks_acoustic_")


def test_what_cannot_be_answered_is_said_as_on_the_command_line(client):
    def similar(**query):
        return client.post("/v1/similar", json=query)

    assert "no track matches" in detail(similar(seeds=["no such music"]), 404)
    assert "was rejected" in detail(similar(seeds=["Other/bad.flac"]), 404)
    assert "there is no field" in detail(similar(seeds=["red"], where=["colour=red"]), 400)
    for wrong in ({}, {"seeds": []}, {"seeds": ["red"], "n": 501}, {"seeds": ["red"], "more": 1}):
        assert detail(similar(**wrong), 422)
    assert detail(similar(seeds=["red"] * 65), 422)
    assert detail(client.post("/v1/similar", content=b"{"), 422)
    assert detail(client.get("/v1/nothing"), 404)
    assert detail(client.get("/v1/path"), 405)


def test_a_track_that_is_not_indexed_yet_is_worth_asking_for_later(client, filled):
    tables = filled.project().tables
    with tables.transaction() as db:
        row = db.execute("SELECT * FROM tracks WHERE path = ?", (b"Some/1.flac",)).fetchone()
        names = [d[1] for d in db.execute("PRAGMA table_info(tracks)")]
        new = dict(zip(names, row, strict=True)) | {"track_id": "f" * 32, "path": b"New/1.flac"}
        new |= {"folder_id": "e" * 32, "audio_hash": "d" * 32}
        db.execute(f"INSERT INTO tracks VALUES ({', '.join('?' * len(names))})", [*new.values()])
    try:
        answer = client.post("/v1/similar", json={"seeds": ["New/1.flac"]})
        assert "not indexed yet" in detail(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
    finally:
        with tables.transaction() as db:
            db.execute("DELETE FROM tracks WHERE track_id = ?", ("f" * 32,))


def test_before_anything_is_indexed_it_says_so_and_is_not_ready(tmp_path):
    empty = LiveProject(tmp_path)
    empty.library.mkdir()
    with running(empty) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert "nothing is indexed yet" in detail(client.get("/readyz"), 503)
        answer = client.post("/v1/similar", json={"seeds": ["blue"]})
        assert "nothing is indexed yet" in detail(answer, 503)
        assert client.get("/v1/status").json()["tracks"] == 0
        assert client.get("/metrics").status_code == 200
    assert not empty.home.exists()


@pytest.mark.parametrize(
    "name",
    [
        "../library/Some/1.flac",
        "Some/../../home",
        "/etc/passwd",
        "..",
        "a\0b",
        "Some/%2e%2e/x",
        "\udcff",
    ],
)
def test_a_name_leads_nowhere_outside_the_library(client, filled, monkeypatch, name):
    monkeypatch.chdir(filled.library / "Some")
    for path in ("/v1/similar", "/v1/radio", "/v1/parts"):
        body = b'{"seeds": [' + _json(name) + b"]}"
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (404, 422), answer.text
        assert str(filled.root) not in answer.text


def test_names_are_relative_to_the_library_only(client, filled, monkeypatch):
    monkeypatch.chdir(filled.library / "Other")
    answer = client.post("/v1/similar", json={"seeds": ["9.flac"]})
    assert answer.status_code == 404 or answer.json()["notes"] == []
    full = client.post("/v1/similar", json={"seeds": [str(filled.library / "Other/9.flac")]})
    assert detail(full, 404)


def test_large_bodies_are_refused(client):
    big = b'{"seeds": ["' + b"x" * doors.MOST_BODY_BYTES + b'"]}'
    assert detail(client.post("/v1/similar", content=big), 413)

    def parts():
        for _ in range(20):
            yield b"x" * 100_000

    assert detail(client.post("/v1/similar", content=parts()), 413)


def test_only_who_has_the_token_may_ask(filled):
    with running(filled, Tokens(TOKEN)) as client:
        for headers in (
            {},
            {"Authorization": "Bearer no"},
            {"Authorization": f"Basic {TOKEN}"},
            {"X-API-Key": ""},
        ):
            for path in ("/v1/status", "/v1/tracks", "/metrics", "/openapi.json", "/nothing"):
                assert "token" in detail(client.get(path, headers=headers), 401)
        for headers in ({"Authorization": f"Bearer {TOKEN}"}, {"X-API-Key": TOKEN}):
            assert client.get("/v1/status", headers=headers).status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_answers_carry_headers_that_keep_browsers_from_guessing(client):
    for path in ("/v1/status", "/healthz", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_many_at_once_are_answered_or_asked_to_come_back(client):
    def ask(i):
        return client.post("/v1/similar", json={"seeds": [f"Some/{i % 4}.flac"]})

    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(ask, range(200)))
    assert {a.status_code for a in answers} <= {200, 429}
    first = {i: next(paths(a) for a in answers[i::4] if a.status_code == 200) for i in range(4)}
    assert all(paths(a) == first[i % 4] for i, a in enumerate(answers) if a.status_code == 200)


def test_more_than_may_wait_are_refused(client, monkeypatch):
    monkeypatch.setattr(doors, "WAITING", -doors.AT_ONCE)
    answer = client.post("/v1/similar", json={"seeds": ["red"]})
    assert "too many queries" in detail(answer, 429)
    assert int(answer.headers["retry-after"]) > 0
    assert client.get("/healthz").status_code == 200


def test_metrics_count_unexpected_errors(filled, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("an error of the program")

    with running(filled) as client:
        monkeypatch.setattr(ea.Library, "snapshot", fail)
        # uvicorn closes the connection after such an error.
        headers = {"Connection": "close"}
        answer = client.post("/v1/similar", json={"seeds": ["blue"]}, headers=headers)
        assert "please report it" in detail(answer, 500)
        counted = 'embed_assets_queries_total{kind="similar",status="500"} 1.0'
        assert counted in client.get("/metrics").text


def test_metrics_count_queries_and_tracks(client):
    client.post("/v1/similar", json={"seeds": ["red"]})
    client.post("/v1/similar", json={"seeds": ["no such music"]})
    text = client.get("/metrics").text
    for status in (200, 404):
        assert re.search(
            rf'embed_assets_queries_total{{kind="similar",status="{status}"}} [1-9]', text
        )
    assert "embed_assets_tracks 7.0" in text
    assert "embed_assets_tracks_rejected 1.0" in text
    assert float(re.search(r"^embed_assets_index_age_seconds (\S+)$", text, re.M)[1]) >= 0


def test_the_openapi_document_says_what_the_server_does(client):
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()
        strategy = operation.as_strategy()

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def run(case):
            # Conditions have a grammar of their own, which a schema cannot express.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        run()


def _json(text: str) -> bytes:
    return json.dumps(text).encode()


def test_the_page_about_it_names_what_there_is(client):
    page = (Path(__file__).resolve().parent.parent / "docs/http.md").read_text()
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/"):
                row = re.search(rf"^\| `{method.upper()} {path}` \|(.*)$", page, re.M)
                assert row, (method, path)
                known = [p["name"] for p in operation.get("parameters", ())]
                if body := operation.get("requestBody"):
                    reference = body["content"]["application/json"]["schema"]["$ref"]
                    known += document["components"]["schemas"][reference.rpartition("/")[2]][
                        "properties"
                    ]
                for name in {*known} - {"format"}:
                    assert f"`{name}`" in row[1], (path, name)
            else:
                assert path in page
    for status in problems.STATUS:
        assert f"| {status[1]:d} |" in page or status[1] == 500
    for name in re.findall(r"`(?:\.\.\.|embed_assets)(_\w+)`", page):
        # Only with music servers, see test_audiomuse, or beside `up`, see test_http_up.
        if name not in ("_server_tracks", "_runs"):
            assert f"embed_assets{name}" in client.get("/metrics").text, name


def test_the_query_of_the_page_is_answered(client):
    page = (Path(__file__).resolve().parent.parent / "docs/http.md").read_text()
    body = json.loads(re.search(r"-d '(.*)'", page)[1])
    assert body.keys() == {"seeds", "n", "where"}
    answer = client.post("/v1/similar", json=body | {"seeds": ["blue"], "where": body["where"][:1]})
    assert paths(answer) == ["Some/1.flac"]
