"""`/api`: each plugin's requests as they were captured, and what it reads from the answers.

The clients here send what the plugins of Navidrome, Jellyfin and Lyrion send, and read what those
read; nothing of their code is here.
"""

from __future__ import annotations

import uuid

import pytest

import embed_assets as ea
from embed_assets.access import Tokens
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.music_servers import PASSWORD, USER, Recorded, recorded
from embed_assets_tests.test_asking import index
from embed_assets_tests.test_http import running
from embed_assets_tests.test_music_servers import server_id, song, until

TOKEN = "the plugin's token"
NAMES = [f"Artist {i % 3}/Album/{i}.flac" for i in range(12)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    made = LiveProject(tmp_path_factory.mktemp("audiomuse"))
    made.library.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        made.put(name, i, title=f"Song {i}", artist=f"Artist {i % 3}", album="Album")
    made.put_bad("Bad/bad.flac", b"this is no music\n" * 50)
    index(made.project())
    return made


class Face:
    """A running server with the ids of a music server of a kind; a client with the token."""

    def __init__(self, kind, client, server, filled):
        self.kind, self.client, self.server, self.filled = kind, client, server, filled
        self.names = {server_id(kind, i): name for i, name in enumerate(NAMES)}

    def id(self, number):
        return server_id(self.kind, number)

    def get(self, path, **query):
        return self.client.get(
            path, params=query or None, headers={"Authorization": f"Bearer {TOKEN}"}
        )

    def post(self, path, **body):
        return self.client.post(path, json=body, headers={"Authorization": f"Bearer {TOKEN}"})

    def paths(self, rows, key="item_id"):
        return [self.names[row[key]] for row in rows]


@pytest.fixture(params=["navidrome", "jellyfin", "lyrion"])
def face(request, filled, monkeypatch):
    yield from faces(request.param, filled, monkeypatch)


def faces(kind, filled, monkeypatch):
    """A face whose ids are known."""
    monkeypatch.setenv("EMBED_SERVER_ND_USER", USER)
    monkeypatch.setenv("EMBED_SERVER_ND_PASSWORD", PASSWORD)
    root = filled.library
    songs = [song(kind, i, name, (root / name).stat().st_size) for i, name in enumerate(NAMES)]
    with recorded(Recorded(kind, songs)) as server:
        filled.settings["EMBED_SERVERS"] = f"nd={kind}+{server.url}"
        try:
            (filled.home / "servers.sqlite").unlink(missing_ok=True)
            with running(filled, Tokens(TOKEN)) as client:
                made = Face(kind, client, server, filled)
                until(lambda: made.get("/v1/servers").json()[0]["mapped"] == len(NAMES))
                yield made
        finally:
            del filled.settings["EMBED_SERVERS"]


@pytest.fixture
def navidrome(filled, monkeypatch):
    yield from faces("navidrome", filled, monkeypatch)


@pytest.fixture
def jellyfin(filled, monkeypatch):
    yield from faces("jellyfin", filled, monkeypatch)


@pytest.fixture
def lyrion(filled, monkeypatch):
    yield from faces("lyrion", filled, monkeypatch)


def similar(filled, number, n, **more):
    found = ea.Library(filled.made_settings()).similar(NAMES[number], n, **more)
    return [(m.path, m.score) for m in found]


# Navidrome: base address + literal path; status 200 exactly; a slash at the end is doubled


def test_navidrome_similar_songs(navidrome):
    query = "item_id={}&n=5&eliminate_duplicates=false&radius_similarity=false"
    address = str(navidrome.client.base_url)
    for base in (address.rstrip("/"), address.rstrip("/") + "/"):
        answer = navidrome.get(f"{base}/api/similar_tracks?" + query.format(navidrome.id(1)))
        assert answer.status_code == 200
        rows = answer.json()
        assert [set(row) for row in rows] == [
            {"item_id", "title", "author", "album", "distance"}
        ] * 5
        want = similar(navidrome.filled, 1, 5)
        assert navidrome.paths(rows) == [path for path, _ in want]
        # What the plugin reports as similarity is then the cosine.
        assert [min(1, max(0, 1 - row["distance"])) for row in rows] == pytest.approx(
            [max(0, score) for _, score in want], abs=1e-5
        )
    answer = navidrome.get(
        "/api/similar_tracks",
        item_id=navidrome.id(1),
        n="500",
        eliminate_duplicates="true",
        radius_similarity="true",
    )
    authors = [row["author"] for row in answer.json()]
    assert max(map(authors.count, authors)) == 3


def test_navidrome_path(navidrome):
    answer = navidrome.get(
        "/api/find_path",
        start_song_id=navidrome.id(0),
        end_song_id=navidrome.id(5),
        count="6",
        max_steps="6",
        path_fix_size="false",
        mood_pct="100",
    )
    assert answer.status_code == 200
    path = navidrome.paths(answer.json()["path"])
    assert (path[0], path[-1], len(path)) == (NAMES[0], NAMES[5], 6)
    same = navidrome.get(
        "/api/find_path", start_song_id=navidrome.id(0), end_song_id=navidrome.id(0)
    )
    assert same.status_code == 400
    assert "same audio" in same.json()["error"]


def test_navidrome_similar_artists(navidrome):
    for matches in ("true", "false"):
        answer = navidrome.get(
            "/api/similar_artists", artist="ar1", n="10", include_component_matches=matches
        )
        assert answer.status_code == 200
        rows = answer.json()
        assert {row["artist"]: row["artist_id"] for row in rows} == {
            "Artist 0": "ar0",
            "Artist 2": "ar2",
        }
        if matches == "false":
            continue
        for row in rows:
            for match in row["component_matches"]:
                one, other = (match[f"artist{i}_representative_songs"] for i in (1, 2))
                assert all(path.startswith("Artist 1") for path in navidrome.paths(one))
                assert all(path.startswith(row["artist"]) for path in navidrome.paths(other))
                assert {"item_id", "title"} <= set(other[0])


# Jellyfin: GUIDs, with and without dashes; 2xx


def test_jellyfin_instant_mix(jellyfin):
    assert jellyfin.get("/api/active_tasks").is_success
    want = [path for path, _ in similar(jellyfin.filled, 2, 4)]
    for guid in (jellyfin.id(2), str(uuid.UUID(jellyfin.id(2))), jellyfin.id(2).upper()):
        answer = jellyfin.get("/api/similar_tracks", n=4, item_id=guid)
        assert answer.status_code == 200
        assert [jellyfin.names[uuid.UUID(r["item_id"]).hex] for r in answer.json()] == want
    # One seed after the other, up to twenty: an album that it has and others do not.
    unknown = jellyfin.get("/api/similar_tracks", n=4, item_id="f" * 32)
    assert unknown.status_code == 404
    assert unknown.json()["error"]


def test_jellyfin_tasks(jellyfin):
    started = jellyfin.post("/api/analysis/start")
    assert started.status_code == 202
    task = started.json()
    assert (task["task_type"], task["status"]) == ("main_analysis", "queued")
    assert jellyfin.get(f"/api/status/{task['task_id']}").json()["status"] == "PENDING"
    assert jellyfin.get("/api/active_tasks").json()["task_id"] == task["task_id"]
    assert jellyfin.get("/api/last_task").json()["task_id"] == task["task_id"]
    for path in ("/api/clustering/start", "/api/cancel/x", "/api/clap/search"):
        refused = jellyfin.post(path)
        assert refused.status_code == 501
        assert "docs/music-servers.md" in refused.json()["error"]
    assert jellyfin.get("/chat/api/config_defaults").status_code == 501
    assert jellyfin.get("/api/config").status_code == 200
    assert jellyfin.get("/api/playlists").json() == {}


def test_jellyfin_passes_searches_and_playlists_through(jellyfin):
    rows = jellyfin.get("/api/search_tracks", title="song 7", artist="artist 1").json()
    assert jellyfin.paths(rows) == [NAMES[7]]
    named = jellyfin.get("/api/similar_tracks", title="Song 7", artist="Artist 1", n=3).json()
    assert jellyfin.paths(named) == [path for path, _ in similar(jellyfin.filled, 7, 3)]
    some = [jellyfin.id(i) for i in (3, 1)]
    made = jellyfin.post("/api/create_playlist", playlist_name="Mix", track_ids=some)
    assert made.status_code == 201
    assert jellyfin.server.playlists == {"Mix": some}
    farthest = jellyfin.get("/api/max_distance", item_id=jellyfin.id(1)).json()
    last_path, last_score = similar(jellyfin.filled, 1, 50)[-1]
    assert jellyfin.names[farthest["farthest_item_id"]] == last_path
    assert farthest["max_distance"] == pytest.approx(1 - last_score, abs=1e-5)


# Lyrion: decimal ids as text; an `error` in a 200 would be an error


def test_lyrion_menus(lyrion):
    assert lyrion.client.get("/api/health").json() == {"status": "ok"}
    query = {"item_id": lyrion.id(4), "n": 3, "eliminate_duplicates": "true"}
    answer = lyrion.get("/api/similar_tracks", **query)
    assert all("error" not in row and row["item_id"].isdecimal() for row in answer.json())
    assert len(answer.json()) == 3
    assert lyrion.get("/api/search_tracks", artist="Artist 2").json()
    path = lyrion.get(
        "/api/find_path", start_song_id=lyrion.id(0), end_song_id=lyrion.id(5), max_steps=4
    ).json()["path"]
    assert len(path) == 4


def test_lyrion_alchemy(lyrion):
    items = [
        {"id": lyrion.id(0), "op": "ADD", "type": "song"},
        {"id": lyrion.id(3), "op": "ADD", "type": "song"},
        {"id": lyrion.id(1), "op": "SUBTRACT", "type": "song"},
    ]
    rows = lyrion.post("/api/alchemy", items=items, n=4).json()["results"]
    lib = ea.Library(lyrion.filled.made_settings())
    want = lib.similar([NAMES[0], NAMES[3]], 4, avoid=[NAMES[1]])
    assert lyrion.paths(rows) == [m.path for m in want]
    artist = [{"id": "2", "op": "ADD", "type": "artist"}]
    found = lyrion.post("/api/alchemy", items=artist, n=50).json()["results"]
    assert found
    none = lyrion.post("/api/alchemy", items=items[2:], n=4)
    assert none.status_code == 400
    assert "ADD" in none.json()["error"]


def test_lyrion_mixers_of_one_seed(lyrion):
    grove = lyrion.post("/api/sem_grove/search", item_id=lyrion.id(2), limit=5).json()["results"]
    assert grove[0]["is_seed"] is True
    assert lyrion.paths(grove[:1]) == [NAMES[2]]
    want = [path for path, _ in similar(lyrion.filled, 2, 5)]
    assert lyrion.paths(grove[1:]) == want
    plane = lyrion.post("/api/hyperbolic/similar", item_id=lyrion.id(2), mode="similar", limit=5)
    assert lyrion.paths(plane.json()["results"]) == want
    dstm = lyrion.get(
        "/api/similar_tracks",
        item_id=lyrion.id(2),
        n=40,
        radius_similarity="true",
        mood_similarity="true",
        no_such_parameter="1",
    )
    assert len(dstm.json()) == 11


# All of them


def test_track_ids_of_ours_are_understood_and_answered_with_those_of_the_server(face):
    (row,) = face.get("/v1/tracks", q="song 3").json()["tracks"]
    answer = face.get("/api/similar_tracks", item_id=row["track_id"], n=2)
    assert face.paths(answer.json()) == [path for path, _ in similar(face.filled, 3, 2)]
    one = face.client.post(
        "/v1/similar",
        json={"seeds": [{"server": "nd", "id": face.id(3)}], "n": 2},
        headers={"X-API-Key": TOKEN},
    ).json()
    assert [m["ids"] for m in one["matches"]] == [{"nd": r["item_id"]} for r in answer.json()]


def test_wrong_questions_have_the_form_of_errors(face):
    wrong = face.client.get("/api/similar_tracks?item_id=x")
    assert (wrong.status_code, wrong.headers["content-type"]) == (401, "application/json")
    assert wrong.json()["error"]
    for path, status in (
        ("/api/similar_tracks?item_id=nothing&n=5", 404),
        ("/api/similar_tracks?item_id=nothing&n=many", 400),
        ("/api/similar_tracks?item_id=nothing&server=other", 404),
        ("/api/similar_tracks", 404),
        ("/api/find_path?start_song_id=x", 400),
        ("/api/status/no-such", 404),
        ("/api/similar_artists?artist=Nobody", 404),
    ):
        answer = face.get(path)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), path
        assert answer.json()["error"]


def test_a_track_of_the_library_that_the_server_lacks_is_not_found_there(face):
    rows = face.get("/v1/tracks", q="song 3").json()["tracks"]
    face.server.songs = [one for one in face.server.songs if NAMES[3] not in str(one)]
    face.server.songs = [one for one in face.server.songs if one.get("id") != 13]
    face.server.scan = "2026-01-02T00:00:00Z"
    face.post("/v1/look?server=nd")
    until(lambda: face.get("/v1/servers").json()[0]["mapped"] == len(NAMES) - 1)
    answer = face.get("/api/track", item_id=rows[0]["track_id"])
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_a_track_that_the_server_has_before_us_is_to_be_asked_for_later(face):
    face.server.songs.append(song(face.kind, 40, "New/Album/40.flac", 123))
    answer = face.get("/api/similar_tracks", item_id=face.id(40))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


def test_without_music_servers_ids_are_those_of_tracks(filled):
    with running(filled) as client:
        assert client.get("/v1/servers").json() == []
        (row,) = client.get("/v1/tracks", params={"q": "song 3"}).json()["tracks"]
        query = {"item_id": row["track_id"], "n": 2}
        rows = client.get("/api/similar_tracks", params=query).json()
        tracks = {t["track_id"]: t["path"] for t in client.get("/v1/tracks").json()["tracks"]}
        want = [path for path, _ in similar(filled, 3, 2)]
        assert [tracks[r["item_id"]] for r in rows] == want
        made = client.post("/api/create_playlist", json={"playlist_name": "a", "track_ids": ["b"]})
        assert (made.status_code, list(made.json())) == (400, ["error"])


def test_a_playlist_is_put_on_the_server(navidrome):
    rows = navidrome.get("/v1/tracks", q="song 1").json()["tracks"]
    ids = {row["path"]: row["track_id"] for row in rows}
    some = [ids[NAMES[1]], ids[NAMES[10]], "f" * 32]
    answer = navidrome.post("/v1/playlists", server="nd", name="Evening", track_ids=some).json()
    assert (answer["tracks"], answer["left_out"]) == (2, ["f" * 32])
    assert navidrome.server.playlists == {"Evening": [navidrome.id(1), navidrome.id(10)]}
    none = navidrome.post("/v1/playlists", server="nd", name="E", track_ids=["f" * 32])
    assert (none.status_code, "none of these tracks" in none.json()["detail"]) == (400, True)
    other = navidrome.post("/v1/playlists", server="other", name="E", track_ids=["f" * 32])
    assert other.status_code == 404


def test_metrics_and_status_count_what_is_mapped(navidrome):
    text = navidrome.get("/metrics").text
    assert 'embed_assets_server_tracks{server="nd",state="mapped"} 12.0' in text
    (row,) = navidrome.get("/v1/status").json()["servers"]
    assert (row["name"], row["items"], row["unmatched"], row["problem"]) == ("nd", 12, 0, "")


def test_another_file_with_the_audio_stands_for_one_that_the_server_lacks(tmp_path, monkeypatch):
    made = LiveProject(tmp_path / "own")
    made.library.mkdir(parents=True)
    for i, name in enumerate(NAMES[:3]):
        made.put(name, i, title=f"Song {i}", artist=f"Artist {i % 3}", album="Album")
    made.put("Copies/0.flac", 0, title="Bonus", artist="Somebody", album="Hits")
    index(made.project())
    ids = {
        row["path"]: row["track_id"] for row in ea.Library(made.made_settings()).snapshot().listed()
    }
    root = made.library
    songs = [
        song("navidrome", i, name, (root / name).stat().st_size) for i, name in enumerate(NAMES[:3])
    ]
    monkeypatch.setenv("EMBED_SERVER_ND_USER", USER)
    monkeypatch.setenv("EMBED_SERVER_ND_PASSWORD", PASSWORD)
    with recorded(Recorded("navidrome", songs)) as server:
        made.settings["EMBED_SERVERS"] = f"nd=navidrome+{server.url}"
        with running(made) as client:
            until(lambda: client.get("/v1/servers").json()[0]["mapped"] == 3)
            query = {"server": "nd", "name": "Evening", "track_ids": [ids["Copies/0.flac"]]}
            answer = client.post("/v1/playlists", json=query)
            assert answer.status_code == 200, answer.text
            assert (answer.json()["tracks"], answer.json()["left_out"]) == (1, [])
            assert server.playlists == {"Evening": ["nd0"]}
            track = client.get("/api/track", params={"item_id": ids["Copies/0.flac"]}).json()
            assert track["item_id"] == "nd0"
            # Each file of a duplicate has its own id, or none.
            (group,) = client.get("/v1/duplicates", params={"least": 1}).json()["groups"]
            found = {one["path"]: one["ids"] for one in group["tracks"]}
            assert found == {NAMES[0]: {"nd": "nd0"}, "Copies/0.flac": {}}
            artists = client.post("/v1/artists", json={"artist": "Artist 1"}).json()
            assert [one["ids"] for one in artists["tracks"]] == [{"nd": "nd1"}]
            near = [one for artist in artists["artists"] for one in artist["tracks"]]
            assert {one["path"]: one["ids"] for one in near}[NAMES[2]] == {"nd": "nd2"}
