"""`/rest`: a Subsonic client through the proxy, with a real Subsonic server behind it."""

from __future__ import annotations

import hashlib
from xml.etree import ElementTree

import httpx
import libopensonic
import pytest

import embed_assets as ea
from embed_assets.access import Tokens
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.music_servers import PASSWORD, USER, supysonic
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.test_asking import index
from embed_assets_tests.test_http import running
from embed_assets_tests.test_music_servers import until

NAMES = [f"Artist {i % 3}/Album {i % 3}/{i}.flac" for i in range(9)]
TOKEN = "not the server's business"


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """A client of `serve`, the server behind it, the ids of the server by path, and the project."""
    root = tmp_path_factory.mktemp("proxy")
    made = LiveProject(root / "own")
    made.library.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        made.put(name, i, title=f"Song {i} <&>", artist=f"Artist {i % 3}", album=f"Album {i % 3}")
    index(made.project())
    with supysonic(root / "supysonic", made.library) as server, pytest.MonkeyPatch.context() as env:
        made.settings["EMBED_SERVERS"] = f"sub=subsonic+{server.url}"
        env.setenv("EMBED_SERVER_SUB_USER", USER)
        env.setenv("EMBED_SERVER_SUB_PASSWORD", PASSWORD)
        with running(made, Tokens(TOKEN)) as client:
            headers = {"Authorization": f"Bearer {TOKEN}"}

            def mapped():
                return client.get("/v1/servers", headers=headers).json()[0]["mapped"] == len(NAMES)

            until(mapped)
            songs = direct(server, "search3", query="", songCount=500)["searchResult3"]["song"]
            yield client, server, {song["path"]: song["id"] for song in songs}, made


def login(**more):
    return {"u": USER, "p": PASSWORD, "v": "1.16.1", "c": "test", "f": "json"} | more


def direct(server, method, **more):
    answer = httpx.get(f"{server.url}/rest/{method}", params=login(**more), timeout=PATIENCE)
    return answer.json()["subsonic-response"]


@pytest.fixture
def player(through):
    """Music Assistant's client."""
    address = through[0].base_url
    return libopensonic.Connection(
        f"http://{address.host}", USER, PASSWORD, port=address.port, legacy_auth=True
    )


def similar(made, path, n):
    return [m.path for m in ea.Library(made.made_settings()).similar(path, n)]


def test_a_client_gets_similar_tracks_and_paths(through, player):
    _, _, ids, made = through
    paths = {item: path for path, item in ids.items()}
    assert player.ping()
    found = player.get_sonic_similar_tracks(ids[NAMES[0]], count=4)
    assert [paths[one.entry.id] for one in found] == similar(made, NAMES[0], 4)
    assert all(0 <= one.similarity <= 1 for one in found)
    assert found[0].entry.title.startswith("Song ")
    way = player.find_sonic_path(ids[NAMES[0]], ids[NAMES[5]], count=5)
    assert [paths[way[0].entry.id], paths[way[-1].entry.id], len(way)] == [NAMES[0], NAMES[5], 5]
    assert way[0].similarity == 1
    songs = player.get_similar_songs(ids[NAMES[0]], count=3)
    assert [paths[song.id] for song in songs] == similar(made, NAMES[0], 3)


def test_similar_songs_of_an_artist_and_of_an_album(through):
    client, server, ids, _ = through
    song = direct(server, "getSong", id=ids[NAMES[0]])["song"]
    for method, name, item in (
        ("getSimilarSongs2", "similarSongs2", song["artistId"]),
        ("getSimilarSongs", "similarSongs", song["albumId"]),
    ):
        answer = client.get(f"/rest/{method}", params=login(id=item, count="5")).json()
        songs = answer["subsonic-response"][name]["song"]
        assert len(songs) == 5
        assert all(one["artist"] != "Artist 0" for one in songs)


def test_the_extension_is_announced(through):
    client = through[0]
    answer = client.get("/rest/getOpenSubsonicExtensions.view", params=login()).json()
    extensions = answer["subsonic-response"]["openSubsonicExtensions"]
    assert {"name": "sonicSimilarity", "versions": [1]} in extensions


@pytest.mark.parametrize("method", ["getIndexes", "getSong", "search3", "getUser", "nothing"])
def test_everything_else_is_passed_on_byte_for_byte(through, method):
    client, server, ids, _ = through
    query = login(id=ids[NAMES[1]], query="Song", username=USER, f="xml")
    for view in ("", ".view"):
        own = httpx.get(f"{server.url}/rest/{method}{view}", params=query, timeout=PATIENCE)
        passed = client.get(f"/rest/{method}{view}", params=query)
        assert (passed.status_code, passed.content) == (own.status_code, own.content)
        assert passed.headers["content-type"] == own.headers["content-type"]
        posted = client.post(f"/rest/{method}{view}", data=query)
        assert posted.content == own.content


def test_streams_pass_through(through):
    client, _, ids, made = through
    file = (made.library / NAMES[2]).read_bytes()
    assert client.get("/rest/download", params=login(id=ids[NAMES[2]])).content == file
    with client.stream("GET", "/rest/stream.view", params=login(id=ids[NAMES[2]])) as stream:
        assert b"".join(stream.iter_bytes()) == file
    headers = {"Range": "bytes=100-199"}
    part = client.get("/rest/stream", params=login(id=ids[NAMES[2]]), headers=headers)
    if part.status_code == 206:
        assert part.content == file[100:200]


def test_xml_is_what_json_says(through):
    client, _, ids, _ = through
    query = {"id": ids[NAMES[0]], "count": "3"}
    told = client.get("/rest/getSonicSimilarTracks", params=login(**query)).json()
    matches = told["subsonic-response"]["sonicMatch"]
    text = client.get("/rest/getSonicSimilarTracks", params=login(**query, f="xml"))
    assert text.headers["content-type"].startswith("text/xml")
    root = ElementTree.fromstring(text.content)
    space = "{http://subsonic.org/restapi}"
    assert root.tag == f"{space}subsonic-response"
    assert root.get("status") == "ok"
    found = root.findall(f"{space}sonicMatch")
    entries = [one.find(f"{space}entry").attrib for one in found]
    assert [e["title"] for e in entries] == [m["entry"]["title"] for m in matches]
    assert [float(one.get("similarity")) for one in found] == [m["similarity"] for m in matches]


def test_only_who_has_a_login_of_the_server_gets_anything(through):
    client, server, ids, _ = through
    for method, query in (
        ("getSonicSimilarTracks", {"id": ids[NAMES[0]]}),
        ("findSonicPath", {"startSongId": ids[NAMES[0]], "endSongId": ids[NAMES[1]]}),
        ("getSimilarSongs", {"id": ids[NAMES[0]]}),
        ("getSong", {"id": ids[NAMES[0]]}),
    ):
        for wrong in (login(**query) | {"p": "wrong"}, {"f": "json", "c": "test"} | query):
            answer = client.get(f"/rest/{method}", params=wrong).json()["subsonic-response"]
            assert answer["status"] == "failed", method
            assert answer["error"]["code"] in (10, 40)
    assert client.get("/v1/status").status_code == 401
    seen = (server.home / "log").read_text() if (server.home / "log").exists() else ""
    assert TOKEN not in seen


def test_wrong_questions_are_answered_as_subsonic_does(through):
    client = through[0]

    def ask(method, **query):
        answer = client.get(f"/rest/{method}", params=login(**query))
        assert answer.status_code == 200
        return answer.json()["subsonic-response"]["error"]

    assert ask("getSonicSimilarTracks")["code"] == 10
    assert ask("getSonicSimilarTracks", id="nothing")["code"] == 70
    assert ask("getSonicSimilarTracks", id="nothing", count="many")["code"] == 0
    assert ask("findSonicPath", startSongId="nothing", endSongId="nothing")["code"] == 70
    for path in ("/rest/../v1/status", "/rest/%2e%2e%2fv1%2fstatus", "/rest/a/b", "/rest/a%00b"):
        assert client.get(path).status_code in (401, 404), path


def test_tokens_of_a_login_are_passed_too(through):
    client = through[0]
    token = hashlib.md5(f"{PASSWORD}salt".encode()).hexdigest()
    query = {"u": USER, "t": token, "s": "salt", "v": "1.16.1", "c": "test", "f": "json"}
    # supysonic takes no tokens, and it is its answer that comes.
    answer = client.get("/rest/getSonicSimilarTracks", params=query | {"id": "x"}).json()
    assert answer["subsonic-response"]["error"]["code"] == 10


def test_web_players_of_other_origins_may_read_what_the_server_lets_them_read(through):
    client, server, ids, _ = through
    headers = {"Origin": "http://player.example"}
    for query in (login(id=ids[NAMES[0]]), login(id="nothing")):
        answer = client.get("/rest/getSonicSimilarTracks", params=query, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "*"
    url = "/rest/getSimilarSongs"
    own = httpx.options(f"{server.url}{url}", headers=headers, timeout=PATIENCE)
    passed = client.options(url, headers=headers)
    assert (passed.status_code, passed.content) == (own.status_code, own.content)


def test_songs_that_are_not_indexed_yet_are_the_servers_business(through):
    client, server, _, made = through
    made.put("Artist 0/Album 0/new.flac", 20, title="New", artist="Artist 0", album="Album 0")
    server.scan()
    songs = direct(server, "search3", query="New", songCount=9)["searchResult3"]["song"]
    query = login(id=songs[0]["id"], count="3")
    own = httpx.get(f"{server.url}/rest/getSimilarSongs", params=query, timeout=PATIENCE)
    assert client.get("/rest/getSimilarSongs", params=query).content == own.content
    # The other songs of its album are known.
    query = login(id=songs[0]["albumId"], count="3")
    answer = client.get("/rest/getSimilarSongs", params=query).json()["subsonic-response"]
    assert len(answer["similarSongs"]["song"]) == 3
    query = login(id=songs[0]["id"], count="3")
    answer = client.get("/rest/getSonicSimilarTracks", params=query).json()["subsonic-response"]
    assert answer["error"]["code"] == 70


def test_a_server_that_is_away_is_said_to_be(tmp_path):
    made = LiveProject(tmp_path, settings={"EMBED_SERVERS": "sub=subsonic+http://127.0.0.1:9"})
    made.library.mkdir()
    with running(made) as client:
        passed = client.get("/rest/ping", params=login())
        assert passed.status_code == 503
        assert "music server sub cannot be reached" in passed.text
        own = client.get("/rest/getSonicSimilarTracks", params=login(id="x")).json()
        assert "cannot be reached" in own["subsonic-response"]["error"]["message"]
