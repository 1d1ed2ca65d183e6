"""The ids of music servers: listed, matched, kept up to date, and what happens when one fails."""

from __future__ import annotations

import json
import time

import pytest

import embed_assets as ea
from embed_assets.errors import ConfigurationError, NotFound, NotIndexedYet, TransientError
from embed_assets.http.context import Context
from embed_assets.servers import ids as server_ids
from embed_assets.servers.config import ServerConfig, parse
from embed_assets.servers.kinds import connect
from embed_assets.storage import looks
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.music_servers import PASSWORD, USER, Recorded, recorded, supysonic
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.test_asking import index

NAMES = [f"Artist {i % 3}/Album/{i}.flac" for i in range(6)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return library_at(tmp_path_factory.mktemp("servers"))


def library_at(root):
    made = LiveProject(root)
    made.library.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        made.put(name, i, title=f"Song {i}", artist=f"Artist {i % 3}", album="Album")
    index(made.project())
    return made


@pytest.fixture
def tracks(filled):
    """Path -> row of the manifest."""
    rows = ea.Library(filled.made_settings()).snapshot().listed()
    return {row["path"]: row for row in rows}


def song(kind, number, path, size):
    """A track as a server of a kind writes it."""
    title, artist = f"Song {number}", f"Artist {number % 3}"
    if kind == "navidrome":
        return {
            "id": f"nd{number}",
            "path": path,
            "libraryPath": "/music",
            "libraryId": 1,
            "size": size,
            "duration": 6.02,
            "title": title,
            "artist": artist,
            "album": "Album",
            "missing": False,
            "mbzRecordingID": "",
            "participants": {"artist": [{"id": f"ar{number % 3}", "name": artist}]},
        }
    if kind == "jellyfin":
        return {
            "Id": f"{number:032x}",
            "Path": f"/media/{path}",
            "Name": title,
            "Album": "Album",
            "RunTimeTicks": 60_200_000,
            "MediaSources": [{"Size": size}],
            "ProviderIds": {},
            "ArtistItems": [{"Id": f"{number % 3:031x}a", "Name": artist}],
        }
    return {
        "id": number + 10,
        "url": f"file:///srv/my%20music/{path.replace(' ', '%20')}",
        "filesize": str(size),
        "duration": "6.02",
        "title": title,
        "artist": artist,
        "artist_id": str(number % 3 + 1),
        "album": "Album",
    }


def server_id(kind, number):
    return {
        "navidrome": f"nd{number}",
        "jellyfin": f"{number:032x}",
        "lyrion": str(number + 10),
    }[kind]


def songs(kind, filled):
    root = filled.library
    return [song(kind, i, name, (root / name).stat().st_size) for i, name in enumerate(NAMES)]


@pytest.fixture(params=["navidrome", "jellyfin", "lyrion"])
def server(request, filled, tmp_path, monkeypatch):
    with recorded(Recorded(request.param, songs(request.param, filled))) as made:
        yield made


def context_of(filled, server, tmp_path, monkeypatch, user=USER, password=PASSWORD):
    """What `serve` works with; the side table is the test's own."""
    monkeypatch.setenv("EMBED_SERVER_X_USER", user)
    monkeypatch.setenv("EMBED_SERVER_X_PASSWORD", password)
    kind = getattr(server, "kind", "subsonic")
    settings = filled.made_settings().model_copy(update={"servers": f"x={kind}+{server.url}"})
    made = Context.of(ea.Library(settings))
    made.ids.table.path = tmp_path / "servers.sqlite"
    return made


@pytest.fixture
def context(filled, server, tmp_path, monkeypatch):
    monkeypatch.setattr(f"embed_assets.servers.{server.kind}.LOOKUP_SECONDS", PATIENCE)
    return context_of(filled, server, tmp_path, monkeypatch)


def test_every_track_of_a_server_is_matched(context, server, tracks):
    found = context.ids.refresh("x")
    assert (found.items, found.mapped, found.problem) == (6, 6, "")
    for number, name in enumerate(NAMES):
        track = tracks[name]["track_id"]
        assert context.ids.track_of("x", server_id(server.kind, number)) == track
        assert context.ids.ids_of([track]) == {track: {"x": server_id(server.kind, number)}}
    if server.kind == "jellyfin":
        dashed = f"{1:032X}"
        dashed = "-".join([dashed[:8], dashed[8:12], dashed[12:16], dashed[16:20], dashed[20:]])
        assert context.ids.track_of("x", dashed) == tracks[NAMES[1]]["track_id"]


def test_artists_have_the_ids_of_the_server(context, server):
    context.ids.refresh("x")
    one = context.ids.table.artist_id("x", "ARTIST 1")
    assert one
    assert context.ids.table.artist_name("x", one) == "Artist 1"
    assert context.ids.table.artist_id("x", "Nobody") == ""


def test_an_id_that_is_not_known_yet_is_asked_for_once(context, server, tracks):
    assert context.ids.track_of("x", server_id(server.kind, 2)) == tracks[NAMES[2]]["track_id"]
    asked = len(server.asked)
    context.ids.track_of("x", server_id(server.kind, 2))
    assert len(server.asked) == asked
    for _ in range(3):
        with pytest.raises(NotFound, match="has no track"):
            context.ids.track_of("x", server_id(server.kind, 99))
    assert len(server.asked) <= asked + 1
    with pytest.raises(NotFound, match="no music server 'y'"):
        context.ids.track_of("y", "1")


def test_what_the_server_has_and_the_library_lacks_is_said_to_come(context, server):
    server.songs.append(song(server.kind, 7, "New/Album/7.flac", 123))
    with pytest.raises(NotIndexedYet, match="none of the library yet"):
        context.ids.track_of("x", server_id(server.kind, 7))
    found = context.ids.refresh("x")
    assert (found.mapped, found.unmatched) == (6, 1)
    assert [item.title for item in context.ids.table.unmatched("x", 5)] == ["Song 7"]


def test_a_server_that_lost_a_disk_keeps_its_ids(context, server, tracks):
    context.ids.refresh("x")
    lost, server.songs = server.songs[2:], server.songs[:2]
    found = context.ids.refresh("x")
    assert found.mapped == 6
    assert "2 of our tracks instead of 6" in found.problem
    server.songs += lost[:1]
    assert context.ids.refresh("x").mapped == 3
    assert context.ids.refresh("x").problem == ""


def test_a_server_that_is_away_or_refuses_is_named(context, server, filled, tmp_path, monkeypatch):
    context.ids.refresh("x")
    server.away = True
    with pytest.raises(TransientError, match="music server x"):
        context.ids.refresh("x")
    known = context.ids.listings()["x"]
    assert known.mapped == 6
    assert "music server x" in known.problem
    server.away = False
    if server.kind != "lyrion":  # It asks for no login.
        wrong = context_of(filled, server, tmp_path, monkeypatch, password="wrong")
        with pytest.raises(ConfigurationError, match="EMBED_SERVER_X_PASSWORD") as e:
            wrong.ids.refresh("x")
        assert "wrong" not in str(e.value)


def test_a_server_of_another_kind_is_said_to_be_one(server):
    for kind in {"navidrome", "jellyfin", "lyrion", "subsonic"} - {server.kind}:
        if (server.kind, kind) == ("navidrome", "subsonic"):
            continue
        client = connect(ServerConfig("x", kind, server.url, USER, PASSWORD))
        with pytest.raises((TransientError, ConfigurationError), match="music server x"):
            list(client.items())


def test_a_damaged_side_table_is_made_anew(context):
    context.ids.refresh("x")
    context.ids.table.path.write_bytes(b"this is no database" * 100)
    assert "was damaged" in context.ids.listings()["x"].problem
    assert context.ids.refresh("x").mapped == 6
    context.ids.table.path.unlink()
    assert context.ids.listings()["x"].items == 0


def test_a_scan_of_the_server_asks_for_a_look_and_its_ids(context, server, filled, monkeypatch):
    monkeypatch.setattr(server_ids, "POLL_SECONDS", 0.02)
    tables = filled.project().tables
    looks.finish(tables, looks.begin(tables))
    context.ids.start()
    try:
        until(lambda: context.ids.listings()["x"].mapped == 6)
        asked = looks.newest(tables)
        server.scanning = True
        server.songs.append(song(server.kind, 7, "New/Album/7.flac", 123))
        server.scan = "2026-01-02T00:00:00Z"
        server.events.append('{"scanning":true,"count":1}')
        time.sleep(0.3)
        assert looks.newest(tables) == asked
        server.scanning = False
        server.events.append('{"scanning":false,"count":7}')
        until(lambda: context.ids.listings()["x"].items == 7)
        assert looks.newest(tables) != asked
    finally:
        context.ids.stop()


def test_a_list_that_is_not_taken_is_not_asked_for_all_the_time(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(server_ids, "POLL_SECONDS", 0.02)
    tables = filled.project().tables
    with recorded(Recorded("jellyfin", songs("jellyfin", filled))) as server:
        context = context_of(filled, server, tmp_path, monkeypatch)
        context.ids.start()
        try:
            until(lambda: context.ids.listings()["x"].mapped == 6)
            server.songs = server.songs[:2]
            server.scan = "2026-01-02T00:00:00Z"
            until(lambda: context.ids.listings()["x"].problem)
            looks.finish(tables, looks.begin(tables))
            asked = server.asked.count("GET /Items")
            polls = server.asked.count("GET /ScheduledTasks")
            until(lambda: server.asked.count("GET /ScheduledTasks") >= polls + 5)
            assert server.asked.count("GET /Items") == asked
            assert looks.newest(tables).done_at
            context.ids.list_soon("x")
            until(lambda: server.asked.count("GET /Items") > asked)
        finally:
            context.ids.stop()


def test_a_side_table_that_is_deleted_meanwhile_is_made_anew(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(server_ids, "POLL_SECONDS", 0.02)
    with recorded(Recorded("jellyfin", songs("jellyfin", filled))) as server:
        context = context_of(filled, server, tmp_path, monkeypatch)
        context.ids.start()
        try:
            until(lambda: context.ids.listings()["x"].mapped == 6)
            for file in tmp_path.glob("servers.sqlite*"):
                file.unlink()
            until(lambda: context.ids.listings()["x"].mapped == 6)
        finally:
            context.ids.stop()


def test_what_arrives_in_the_library_later_is_matched_without_another_list(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(server_ids, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(server_ids, "RETRY_SECONDS", 0.02)
    made, name = library_at(tmp_path / "own"), "Late/Album/9.flac"
    server.songs = songs(server.kind, made)
    context = context_of(made, server, tmp_path, monkeypatch)
    made.put(name, 9, title="Song 9", artist="Late", album="Album")
    size = (made.library / name).stat().st_size
    server.songs.append(song(server.kind, 9, name, size))
    context.ids.start()
    try:
        until(lambda: context.ids.listings()["x"].items == 7)
        assert context.ids.listings()["x"].mapped == 6
        listed = context.ids.listings()["x"].listed_at
        index(made.project())
        until(lambda: context.ids.listings()["x"].mapped == 7)
        assert context.ids.listings()["x"].listed_at == listed
    finally:
        context.ids.stop()


def test_playlists_are_replaced_by_name(context, server):
    if server.kind == "lyrion":
        with pytest.raises(ConfigurationError, match="takes no playlists"):
            context.ids.servers["x"].put_playlist("Evening", ["10"])
        return
    client = context.ids.servers["x"]
    some = [server_id(server.kind, i) for i in (1, 2)]
    made = client.put_playlist("Evening", some)
    assert client.put_playlist("Evening", some[::-1]) == made
    assert client.playlists() == {"Evening": made}
    assert list(server.playlists.values()) == [some[::-1]]


def test_a_login_that_has_ended_is_made_anew(filled, tmp_path, monkeypatch):
    with recorded(Recorded("navidrome", songs("navidrome", filled))) as server:
        context = context_of(filled, server, tmp_path, monkeypatch)
        context.ids.refresh("x")
        server.expire = True
        assert context.ids.refresh("x").mapped == 6
        assert server.logins == 2
        server.songs[0]["missing"] = True
        assert context.ids.refresh("x").items == 5


def test_a_real_subsonic_server(tmp_path, monkeypatch):
    made = library_at(tmp_path / "own")
    with supysonic(tmp_path / "supysonic", made.library) as server:
        context = context_of(made, server, tmp_path, monkeypatch)
        found = context.ids.refresh("x")
        assert (found.items, found.mapped) == (6, 6)
        client = context.ids.servers["x"]

        def assert_each_is_its_own():
            rows = ea.Library(made.made_settings()).snapshot().listed()
            tracks = {row["path"]: row["track_id"] for row in rows}
            found = {item.path: context.ids.track_of("x", item.id) for item in client.items()}
            assert found == tracks

        assert_each_is_its_own()
        with pytest.raises(NotFound):
            context.ids.track_of("x", "no such id")
        ids = [item.id for item in client.items()]
        playlist = client.put_playlist("Evening", ids[:3])
        assert client.put_playlist("Evening", ids[2:]) == playlist
        entries = client.call("getPlaylist", id=playlist)["playlist"]["entry"]
        assert [entry["id"] for entry in entries] == ids[2:]
        wrong = context_of(made, server, tmp_path, monkeypatch, password="wrong")
        with pytest.raises(ConfigurationError, match="EMBED_SERVER_X_PASSWORD"):
            wrong.ids.refresh("x")
        # Both sides give new ids to files that move.
        state = client.scan_state()
        time.sleep(1.1)
        made.move("Artist 0", "Moved")
        server.scan()
        assert client.scan_state() != state
        made.sync()
        assert context.ids.refresh("x").mapped == 6
        assert_each_is_its_own()


def test_answers_that_no_server_should_give_end(filled, tmp_path, monkeypatch):
    """A page that comes again and again, and sizes that are no sizes."""
    odd = {"id": "1", "title": "Song", "artist": "A", "size": 1e300, "duration": "NaN"}
    with recorded(Recorded("endless", [odd])) as server:
        client = connect(ServerConfig("x", "subsonic", server.url, USER, PASSWORD))
        (item,) = client.items()
        assert (item.id, item.size, item.duration) == ("1", 0, 0)


def until(question):
    end = time.monotonic() + PATIENCE
    while not question():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nd", "NAME=KIND"),
        ("nd=navidrome+localhost:4533", "NAME=KIND"),
        ("nd=winamp+http://a", "none of"),
        ("N D=navidrome+http://a", "may have a-z"),
        ("a=subsonic+http://b,a=subsonic+http://c", "two servers"),
        ("a-b=subsonic+http://b,a_b=subsonic+http://c", "two servers"),
        ("a=subsonic+http://u:secret@b", "EMBED_SERVER_A_PASSWORD"),
        ("a=subsonic+http://b:99999", "Port"),
        ("a=subsonic+http://", "NAME=KIND"),
        ("a=subsonic+http://b?x=1", "is not like"),
    ],
)
def test_a_list_of_servers_that_means_nothing_is_refused_and_shows_no_password(text, why):
    with pytest.raises(ConfigurationError, match=why) as e:
        ea.open("/music", servers=text)
    assert "secret" not in str(e.value).replace("EMBED_", "") or why != "EMBED_SERVER_A_PASSWORD"


def test_a_list_of_servers_is_read(tmp_path, monkeypatch):
    text = "nd=navidrome+http://me@host:4533/music/, lms=lyrion+https://[::1]:9000"
    nd, lms = parse(text)
    assert (nd.name, nd.kind, nd.url, nd.user) == (
        "nd",
        "navidrome",
        "http://host:4533/music",
        "me",
    )
    assert (lms.url, lms.user) == ("https://[::1]:9000", "")
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    monkeypatch.setenv("EMBED_SERVER_ND_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("EMBED_SERVER_LMS_TOKEN", "a token")
    one, other = ea.open("/music", servers=text).settings.music_servers()
    assert (one.user, one.password, other.token) == ("me", "from a file", "a token")
    assert "from a file" not in repr(one)
    monkeypatch.setenv("EMBED_SERVER_ND_PASSWORD_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="EMBED_SERVER_ND_PASSWORD_FILE"):
        ea.open("/music", servers=text).settings.music_servers()


def test_without_servers_nothing_is_asked_and_nothing_written(filled):
    context = Context.of(ea.Library(filled.made_settings()))
    context.ids.start()
    assert context.ids.ids_of(["x"]) == {}
    assert not (filled.home / "servers.sqlite").exists()


def test_commands_put_playlists_on_a_server_and_say_how_much_it_knows(tmp_path):
    made = library_at(tmp_path / "own")
    with recorded(Recorded("navidrome", songs("navidrome", made)[:5])) as server:
        made.settings |= {
            "EMBED_SERVERS": f"nd=navidrome+{server.url}",
            "EMBED_SERVER_ND_USER": USER,
            "EMBED_SERVER_ND_PASSWORD": PASSWORD,
        }
        doctor = json.loads(made.run("doctor", "--json").stdout)
        assert "not listed yet" in next(f for f in doctor if f["check"] == "servers")["message"]
        done = made.run("radio", NAMES[0], "-n", "9", "--random", "1", "--to", "nd:Evening")
        assert done.returncode == 0, done.stderr
        assert "4 tracks put into the playlist Evening of nd" in done.stderr
        assert f"left out of nd:Evening: {NAMES[5]}" in done.stderr
        assert len(server.playlists["Evening"]) == 4
        (row,) = json.loads(made.run("status", "--json").stdout)["servers"]
        assert (row["kind"], row["items"], row["mapped"], row["problem"]) == ("navidrome", 5, 5, "")
        assert "navidrome, 5 of 5 tracks known" in made.run("status").stdout
        assert made.run("path", NAMES[0], NAMES[1], "--to", "nd").returncode == 2
        other = made.run("similar", NAMES[0], "--to", "lms:Evening")
        assert other.returncode == 1
        assert "no music server 'lms'" in other.stderr
        server.away = True
        away = made.run("similar", NAMES[0], "--to", "nd:Evening")
        assert away.returncode == 1
        assert "music server nd" in away.stderr
        assert "Traceback" not in away.stderr
