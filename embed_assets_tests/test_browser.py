"""The page in a real browser: what a person does with it, with eyes, fingers, keys, or neither."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager

import pytest

import embed_assets_tests.live_project as live
from embed_assets_tests.browser import chromium, proxy, until, watch
from embed_assets_tests.corpus import CONTAINERS
from embed_assets_tests.encoded import encode
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.music_servers import PASSWORD, USER, supysonic
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.shelf import Shelf, random_vectors
from embed_assets_tests.synth import music
from embed_assets_tests.test_asking import index
from embed_assets_tests.test_http_serve import serving

pytestmark = pytest.mark.browser

MARKUP = '<img src=x onerror="document.title=1">'
PATIENCE_MS = 120_000
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
TRACK_SECONDS = 12.0
WORDS = [
    *("Amber", "Birch", "Cedar", "Delta", "Ember"),
    *("Fjord", "Grove", "Harbour", "Island", "Juniper"),
]
"""The titles, with `song` behind each: words that no path has."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Twelve tracks, one of them with markup in its tags, one that is converted, one broken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "SECONDS", TRACK_SECONDS)
        made = LiveProject(tmp_path_factory.mktemp("browser"), settings={"EMBED_PARTS": "true"})
        made.library.mkdir(parents=True)
        for i in range(10):
            genre = "Jazz" if i % 2 else "Rock"
            made.put(f"Some/{i}.mp3", i, title=f"{WORDS[i]} song", artist=f"A{i % 3}", genre=genre)
        made.put(f"Odd/{MARKUP.replace('/', '')}.mp3", 20, title=MARKUP, artist=MARKUP)
    muxer, codec, fmt, rate = CONTAINERS["wma"]
    os.makedirs(made.library / "Old", exist_ok=True)
    content = encode(music(TRACK_SECONDS, 30, rate, 1), rate, muxer, codec, fmt)
    (made.library / "Old/tape.wma").write_bytes(content)
    made.put_bad("Broken/bad.mp3", b"this is no music\n" * 50)
    index(made.project())
    return made


@pytest.fixture(scope="module")
def address(filled):
    with serving(filled) as (client, _):
        yield f"{client.base_url}/"


@contextmanager
def opened(browser, address, *expected, **options):
    """The page; afterwards nothing may have gone wrong in it, but for what is `expected`."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    seen = watch(page)
    try:
        page.goto(address)
        page.seen = seen
        yield page
        seen.assert_clean(address, *expected)
    finally:
        context.close()


def search(page, words):
    with page.expect_response(lambda r: "/v1/tracks" in r.url):
        page.fill("#words", words)
    drawn(page)
    return page.locator("#results li")


def drawn(page):
    """Wait until the page shows what it was answered: a response is seen before it is drawn."""
    page.wait_for_selector("#view-find:not([aria-busy])", state="attached")


def titles(page, of="#results"):
    return page.locator(f"{of} li .title").all_inner_texts()


def menu(page, row, entry):
    page.locator("#results li").nth(row).get_by_role("button", name="More about").click()
    page.get_by_role("menuitem", name=entry).click()


@contextmanager
def answered(page, kind):
    with page.expect_response(lambda r: f"/v1/{kind}" in r.url and r.request.method == "POST"):
        yield
    drawn(page)


def plays(page):
    """Wait until the audio really goes on."""
    until(page, "document.getElementById('audio').currentTime > 0.3")


def test_search_play_more_like_this_avoid_radio_and_a_path(browser, address):
    with opened(browser, address) as page:
        assert search(page, "delta").count() == 1
        page.get_by_role("button", name="Play Delta song").click()
        plays(page)
        assert page.locator("#now-title").inner_text() == "Delta song"

        with answered(page, "similar"):
            page.get_by_role("button", name="More like this", exact=True).click()
        page.wait_for_selector("#answer-title:has-text('Like Delta song')")
        page.wait_for_selector("#results li .score")
        alike = titles(page)
        assert alike
        assert "Delta song" not in alike

        with answered(page, "similar"):
            menu(page, len(alike) - 1, "Avoid")
        until(page, f"document.querySelectorAll('#results li').length < {len(alike)}")
        assert alike[-1] not in titles(page)
        assert page.locator(".chip").count() == 2

        with answered(page, "radio"):
            page.get_by_role("button", name="Start radio").click()
        page.click("nav a[href='#queue']")
        assert page.get_by_role("switch", name="Endless radio").is_checked()
        until(page, "document.querySelectorAll('#queue li').length > 3")
        queued = titles(page, "#queue")
        assert queued[0] == "Delta song"
        assert len(queued) == len(set(queued))
        page.get_by_role("button", name="Next track").click()
        page.wait_for_selector(f"#now-title:has-text('{queued[1]}')")

        page.click("nav a[href='#find']")
        search(page, "song")
        menu(page, 0, "Path from here")
        with answered(page, "path"):
            menu(page, 5, "Path to here")
        page.wait_for_selector("#answer-title:has-text('From Amber song')")
        way = titles(page)
        assert (way[0], way[-1]) == ("Amber song", "Fjord song")


def test_the_part_that_sounds_like_this(browser, address):
    with opened(browser, address) as page:
        search(page, "cedar")
        page.get_by_role("button", name="Play Cedar song").click()
        plays(page)
        with answered(page, "parts"):
            page.get_by_role("button", name="Find parts").click()
        page.wait_for_selector("#results li .by:has-text('at 0:')")
        page.locator("#results li button").first.click()
        plays(page)


def test_what_browsers_cannot_play_is_heard_and_can_be_sought(browser, address):
    with opened(browser, address) as page:
        search(page, "tape")
        page.locator("#results li button").first.click()
        plays(page)
        until(page, "document.getElementById('length').textContent === '0:12'")
        page.locator("#seek").fill("8")
        page.locator("#seek").dispatch_event("change")
        until(page, "document.getElementById('audio').src.includes('start=8')")
        until(page, "document.getElementById('elapsed').textContent >= '0:09'")


def test_a_point_of_the_map_plays_its_track(browser, address):
    with opened(browser, address) as page:
        page.click("nav a[href='#map']")
        page.wait_for_selector("#legend button")
        until(page, "document.getElementById('canvas').width > 300")
        points = page.evaluate("fetch('v1/map').then(a => a.json())")["points"]
        # The one at the far left has no neighbour within the width of a finger.
        i = min(range(len(points["x"])), key=points["x"].__getitem__)
        box, edge = page.locator("#canvas").bounding_box(), 16
        x = box["x"] + edge + points["x"][i] * (box["width"] - 2 * edge)
        y = box["y"] + edge + (1 - points["y"][i]) * (box["height"] - 2 * edge)
        page.mouse.move(x, y)
        assert points["title"][i] in page.locator("#tip").inner_text()
        page.mouse.click(x, y)
        plays(page)
        assert page.locator("#now-title").inner_text() == points["title"][i]


def test_the_map_is_walked_with_keys(browser, address):
    with opened(browser, address) as page:
        page.click("nav a[href='#map']")
        page.wait_for_selector("#legend button")
        page.focus("#canvas")
        page.keyboard.press("ArrowRight")
        first = page.locator("#tip").inner_text()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        named = page.locator("#tip").inner_text()
        assert named != first
        assert page.locator("#live").inner_text() == named
        page.keyboard.press("Enter")
        plays(page)
        assert page.locator("#now-title").inner_text() in named
        page.keyboard.press("+")
        page.mouse.wheel(0, -200)
        page.get_by_role("button", name="Show all").click()


@pytest.mark.parametrize("what", ["results", "queue", "map"])
def test_tracks_are_saved_as_a_playlist(browser, address, what, tmp_path):
    with opened(browser, address, accept_downloads=True) as page:
        search(page, "birch")
        if what == "results":
            with answered(page, "similar"):
                page.get_by_role("button", name="More like Birch song").click()
            page.click("#save-all")
        elif what == "map":
            page.click("nav a[href='#map']")
            page.wait_for_selector("#legend button")
            page.focus("#canvas")
            page.keyboard.press("ArrowRight")
            page.keyboard.press("Enter")
            plays(page)
            page.click("nav a[href='#queue']")
            page.click("#save-queue")
        else:
            page.get_by_role("button", name="Play Birch song").click()
            page.click("nav a[href='#queue']")
            page.click("#save-queue")
        page.fill("#save-name", "My: list")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save", exact=True).and_(
                page.locator("#save button")
            ).click()
        assert download.value.suggested_filename == "My list.m3u"
        download.value.save_as(tmp_path / "list.m3u")
        lines = (tmp_path / "list.m3u").read_text().splitlines()
        assert lines[0] == "#EXTM3U"
        files = [line for line in lines if not line.startswith("#EXT")]
        assert files
        assert all(files)
        if what != "map":
            assert ("Some/1.mp3" in files) == (what == "queue")
        page.wait_for_selector("#live:has-text('Saved')")


def test_all_of_it_works_by_keyboard_alone(browser, address):
    with opened(browser, address) as page:
        keys = page.keyboard
        keys.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        keys.press("/")
        keys.type("ember")
        page.wait_for_selector("#results li:only-child")
        keys.press("Enter")
        until(page, "document.activeElement.id === 'answer-title'")
        focus_until(page, "Play Ember song")
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none"
        keys.press("Enter")
        plays(page)
        with answered(page, "similar"):
            keys.press("m")
        until(page, "document.querySelectorAll('#results li').length > 3")
        until(page, "document.activeElement.id === 'answer-title'")
        while not page.evaluate("Boolean(document.activeElement.closest('#results li'))"):
            keys.press("Tab")
        keys.press("ArrowDown")
        second = titles(page)[1]
        assert second in page.evaluate("document.activeElement.getAttribute('aria-label')")
        for _ in range(2):
            keys.press("Tab")
        keys.press("Enter")
        page.wait_for_selector("#menu:popover-open")
        keys.press("ArrowDown")
        with answered(page, "similar"):
            keys.press("Enter")
        assert page.locator(".chip.like").count() == 2
        keys.press("2")
        page.wait_for_selector("#view-queue", state="visible")
        keys.press(" ")
        until(page, "document.getElementById('audio').paused")
        keys.press("?")
        page.locator("#keys").get_by_text("play or pause").wait_for(state="visible")
        keys.press("Escape")
        page.wait_for_selector("#keys", state="hidden")


def focus_until(page, label):
    for _ in range(60):
        if label in (page.evaluate("document.activeElement.getAttribute('aria-label')") or ""):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {label!r}")


def test_every_control_has_a_name(browser, address):
    with opened(browser, address) as page:
        search(page, "song")
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, input, a, canvas")]
                .filter(e => !(e.innerText || e.getAttribute("aria-label") || e.labels?.length))
                .filter(e => !e.hidden).map(e => e.outerHTML)"""
        )
        assert nameless == []
        assert page.locator("#live").get_attribute("aria-live") == "polite"
        assert "track" in page.locator("#live").inner_text()


def test_it_fits_a_phone(browser, address):
    with opened(browser, address, **PHONE) as page:
        search(page, "song")
        page.locator("#results li button").first.tap()
        plays(page)
        for view in ("find", "queue", "map", "library"):
            page.locator(f"nav a[href='#{view}']").tap()
            page.wait_for_selector(f"#view-{view}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            cut = page.evaluate(
                """() => [...document.querySelectorAll("button, input, nav a")]
                    .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > 361)
                    .map(e => e.outerHTML)"""
            )
            assert cut == []
        box = page.locator("#toggle").bounding_box()
        assert min(box["width"], box["height"]) >= 40
        page.locator("nav a[href='#find']").tap()
        page.locator("#now-more").tap()
        with answered(page, "parts"):
            page.get_by_role("menuitem", name="Parts that sound").tap()


def test_it_is_dark_where_the_system_is(browser, address):
    def brightness(scheme):
        with opened(browser, address, color_scheme=scheme) as page:
            colours = page.evaluate(
                "[getComputedStyle(document.documentElement).backgroundColor,"
                " getComputedStyle(document.body).color]"
            )
        return [sum(map(int, c[4:-1].split(","))) / 765 for c in colours]

    assert brightness("light")[0] > 0.9
    page, ink = brightness("dark")
    assert page < 0.15
    assert ink > 0.8


def test_tags_are_text_and_never_markup(browser, address):
    with opened(browser, address) as page:
        search(page, "onerror")
        assert titles(page) == [MARKUP]
        page.locator("#results li button").first.click()
        plays(page)
        assert page.locator("#now-title").inner_text() == MARKUP
        with answered(page, "similar"):
            page.get_by_role("button", name="More like this", exact=True).click()
        page.wait_for_selector(".chip")
        page.click("nav a[href='#queue']")
        page.click("nav a[href='#map']")
        page.wait_for_selector("#legend button")
        assert page.locator("main img, footer img").count() == 0
        assert page.title() != "1"


def test_rejected_tracks_are_listed_by_folder_with_the_reason(browser, filled, address):
    note = filled.home / "dagster/up.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f'{{"address": "http://127.0.0.1:3000", "session": {os.getpid()}}}')
    try:
        with opened(browser, address) as page:
            page.click("nav a[href='#library']")
            page.wait_for_selector("#status:has-text('12 tracks in')")
            folder = page.locator(".folder")
            assert "Broken" in folder.locator("h4").inner_text()
            assert "not audio" in folder.inner_text()
            page.wait_for_selector("#status a")
            page.click("nav a[href='#find']")
            page.click("nav a[href='#library']")
            link = page.locator(".folder h4 a")
            link.wait_for()
            want = "http://127.0.0.1:3000/assets/audio_embeddings?partition=Broken"
            assert link.get_attribute("href") == want
    finally:
        note.unlink()


def test_an_import_shows_how_far_it_is_and_how_long_it_takes(browser, filled, address):
    tables, now = filled.project().tables, time.time()
    with tables.transaction() as db:
        kept = db.execute("SELECT audio_hash, at FROM embeddings").fetchall()
        for i, (audio_hash, _) in enumerate(kept):
            db.execute("UPDATE embeddings SET at = ? WHERE audio_hash = ?", (now - i, audio_hash))
        path = b"Some/1.mp3"
        own = db.execute("SELECT audio_hash FROM tracks WHERE path = ?", (path,)).fetchone()[0]
        db.execute("UPDATE tracks SET audio_hash = ? WHERE path = ?", ("e" * 32, path))
    try:
        with opened(browser, address) as page:
            page.wait_for_selector("nav a[data-badge='92%']")
            page.click("nav a[href='#library']")
            page.wait_for_selector(
                "#status:has-text('12 tracks of 13 done, less than a minute left')"
            )
            assert page.locator("#status progress").get_attribute("value") == "12"
    finally:
        with tables.transaction() as db:
            db.execute("UPDATE tracks SET audio_hash = ? WHERE path = ?", (own, path))
            for audio_hash, at in kept:
                db.execute("UPDATE embeddings SET at = ? WHERE audio_hash = ?", (at, audio_hash))


def test_tracks_are_saved_on_a_music_server(browser, filled, tmp_path):
    with supysonic(tmp_path / "supysonic", filled.library) as nas:
        logins = {
            "EMBED_SERVERS": f"nas=subsonic+{nas.url}",
            "EMBED_SERVER_NAS_USER": USER,
            "EMBED_SERVER_NAS_PASSWORD": PASSWORD,
        }
        with serving(filled, **logins) as (client, _):
            end = time.monotonic() + PATIENCE
            while not client.get("/v1/servers").json()[0]["mapped"]:
                assert time.monotonic() < end
                time.sleep(0.1)
            with opened(browser, f"{client.base_url}/") as page:
                search(page, "song")
                page.click("#save-all")
                page.fill("#save-name", "Evening")
                page.get_by_role("radio", name="nas").check()
                page.locator("#save-form button.primary").click()
                page.wait_for_selector("#live:has-text('Saved 10 tracks as Evening in nas')")
    assert "Evening" in "".join(nas_playlists(tmp_path / "supysonic/db"))


def nas_playlists(database):
    with sqlite3.connect(database) as db:
        return [name for (name,) in db.execute("SELECT name FROM playlist")]


def test_nothing_found_and_a_server_that_is_gone_are_said_in_words(browser, filled):
    with serving(filled) as (client, process):
        # A connection that is refused is written to the console by the browser itself.
        gone = "Failed to load resource"
        with opened(browser, f"{client.base_url}/", gone) as page:
            search(page, "no such music")
            assert "Try fewer" in page.locator("#answer-text").inner_text()
            process.kill()
            process.wait()
            page.fill("#words", "song")
            page.wait_for_selector("#away:has-text('cannot be reached')")
            page.wait_for_selector("#live:has-text('cannot be reached')")


def test_before_anything_is_indexed_it_says_so(browser, tmp_path):
    empty = LiveProject(tmp_path)
    empty.library.mkdir()
    with serving(empty) as (client, _), opened(browser, f"{client.base_url}/") as page:
        page.wait_for_selector("#answer-title:has-text('Nothing is indexed yet')")
        page.click("nav a[href='#library']")
        page.wait_for_selector("#status:has-text('No track has been read yet')")


def test_it_asks_for_the_token_once(browser, filled):
    unauthorized = "401 (Unauthorized)"
    with serving(filled, EMBED_HTTP_TOKEN="the token") as (client, _):
        address = f"{client.base_url}/"
        with opened(browser, address, unauthorized) as page:
            for _ in range(3):
                page.keyboard.press("Escape")
            page.wait_for_selector("#login", state="visible")
            page.fill("#token", "wrong")
            page.click("#login button")
            page.wait_for_selector("#login-error:has-text('wrong')")
            page.fill("#token", "the token")
            page.click("#login button")
            page.wait_for_selector("#login", state="hidden")
            search(page, "harbour")
            page.get_by_role("button", name="Play Harbour song").click()
            plays(page)
            assert page.evaluate("document.cookie") == ""
            page.reload()
            until(page, "performance.getEntriesByType('resource').length > 5")
            assert not page.locator("#login").is_visible()
            page.click("nav a[href='#library']")
            page.click("#logout")
            page.wait_for_selector("#login")


def test_it_works_below_the_path_of_a_proxy(browser, filled):
    served = serving(filled, "--root-path", "/music", EMBED_HTTP_TOKEN="the token")
    with (
        served as (client, _),
        proxy("/music", str(client.base_url)) as address,
        opened(browser, address, "401 (Unauthorized)") as page,
    ):
        page.fill("#token", "the token")
        page.click("#login button")
        page.wait_for_selector("#login", state="hidden")
        (cookie,) = page.context.cookies()
        assert cookie["path"] == "/music/"
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        search(page, "birch")
        page.get_by_role("button", name="Play Birch song").click()
        plays(page)
        assert all(url.startswith(address) for url in page.seen.requests)


def test_twenty_thousand_tracks_are_no_burden(browser, tmp_path_factory):
    root = tmp_path_factory.mktemp("large")
    shelf, many = Shelf(root / "home"), 20_000
    (root / "library").mkdir()
    rows = [
        shelf.track(f"Folder {i // 2000}/{i}.mp3", title=f"Song {i}", artist=f"Artist {i // 50}")
        for i in range(many)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        # One folder is enough for Milvus: queries read the tables and a file of vectors.
        vectors = random_vectors(many)
        shelf.put(rows[:2000], vectors[:2000], index=True)
        shelf.put(rows[2000:], vectors[2000:])
    with serving(LiveProject(root)) as (client, _):
        assert client.get("/readyz").status_code == 200
        with opened(browser, f"{client.base_url}/") as page:
            until(page, "performance.getEntriesByType('resource').length > 8")
            size = page.evaluate(
                "performance.getEntriesByType('resource').reduce((n, e) => n + e.transferSize, 0)"
            )
            assert size < 200_000
            assert not any("/v1/tracks" in url or "/v1/map" in url for url in page.seen.requests)
            assert search(page, "song").count() == 50
            page.click("nav a[href='#map']")
            page.wait_for_selector("#map-text:has-text('20,000 tracks')")
