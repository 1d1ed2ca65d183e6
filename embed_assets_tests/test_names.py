"""People find names with what their keyboard has, in a filter and in a question's words."""
# ruff: noqa: RUF001 (letters that look like others are what is tried)

from __future__ import annotations

import random
import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_assets.search import exact
from embed_assets.search.filters import condition, expression, parse
from embed_assets.storage.find_tracks import tracks_by_words
from embed_assets.words import has_words, holding, name_key
from embed_assets_tests.shelf import Shelf, random_vectors

NAMES = {
    "Røyksopp": ("royksopp", "RØYKSOPP", "Røyksopp"),
    "Łódź Band": ("lodz", "łódź", "LODZ band"),
    "Işık": ("isik", "IŞIK", "ışık"),
    "Ærø": ("aero", "ÆRØ"),
    "Đorđe": ("dorde", "đorđe"),
    "Don’t Panic": ("don't panic", "dont panic", "DON’T PANIC", "panic"),
    "Großstadtgeflüster": ("grossstadtgefluster", "GROẞSTADTGEFLÜSTER"),
    "Sigur Rós": ("sigur ros",),
    "Smá Þing": ("sma thing", "þing"),
    "Œuvre": ("oeuvre",),
    "İstanbul": ("istanbul", "ISTANBUL"),
    "Кино": ("кино", "kino", "KINO"),
    "Ёлка": ("елка", "ёлка", "elka"),
    "Подъезд": ("podezd", "подъезд"),
    "Ψυχή": ("ψυχη", "ΨΥΧΉ", "psychi"),
    "שלום": ("שלום",),
    "हिन्दी": ("हिन्दी", "hindi"),
    "!!!": ("!!!", "！！！"),
    "AC/DC": ("ac/dc", "acdc", "AC DC", "ac-dc"),
    "R.E.M.": ("rem", "r.e.m.", "R.E.M", "r e m"),
    "P!nk": ("p!nk", "P!NK"),
    "Sinéad O'Connor": ("oconnor", "o’connor", "connor", "sinead o connor"),
    "Ｗｉｄｅ ＦＭ": ("wide fm", "ｗｉｄｅ"),
    "テーゼ": ("テーゼ", "ﾃｰｾﾞ", "ゼ"),
    "邓丽君": ("邓丽君", "丽君"),
    "甜蜜蜜 (邓丽君翻唱)": ("邓丽君", "蜜蜜", "甜蜜蜜"),
    "月亮代表我的心": ("月亮", "代表我的心"),
    "光るなら": ("なら", "光る"),
    "좋은날": ("좋은날", "좋은 날", "좋은"),
    "สวัสดี": ("สวัสดี", "สวัส"),
    "96猫": ("96", "猫", "96猫"),
}
"""A name, and questions that find it."""

OTHERS = {
    "Jazzy": "jazz",
    "Asian Kung-Fu": "sia",
    "P!nk": "pink",
    "Who?": "?",
    "한국": "하",
    "が": "か",
    "王菲": "wang",
    "R.E.M.": "remix",
    "His eyes": "isey",
}
"""A name, and words that a filter does not find in it."""


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_found_by_what_a_keyboard_has_and_by_itself(name):
    for asked in (name, *NAMES[name]):
        assert has_words(name, asked), asked
        assert has_words(f"Live: {name}, again", asked), asked
        words = asked.split()
        assert holding(words)(f"some/{name}/01.flac") == len(words), asked


@pytest.mark.parametrize("name", NAMES)
def test_what_a_keyboard_has_is_found_by_the_name_too(name):
    for spelled in NAMES[name]:
        if name_key(spelled) == name_key(name):
            assert has_words(spelled, name), spelled


@pytest.mark.parametrize("name", OTHERS)
def test_a_part_of_a_word_is_not_that_word(name):
    assert not has_words(name, OTHERS[name])


def test_no_other_name_is_found():
    """But for those that a question names, none of the names above holds it."""
    found = {(n, w) for n in NAMES for other in NAMES for w in NAMES[other] if has_words(n, w)}
    strangers = {(n, w) for n, w in found if w not in NAMES[n]}
    assert strangers == {("甜蜜蜜 (邓丽君翻唱)", "丽君")}


@pytest.fixture
def shelf(each_database, tmp_path):
    """A track of each name as its title, and one as its artist."""
    made = Shelf(tmp_path)
    rows = [made.track(f"a/{i:02d}", title=name) for i, name in enumerate(NAMES)]
    rows += [made.track(f"b/{i:02d}", artist=name) for i, name in enumerate(NAMES)]
    made.put(rows, random_vectors(len(rows)))
    return made


def test_filters_find_artists_and_titles_here_and_in_milvus(shelf):
    ready = shelf.searcher()
    for name, asked in NAMES.items():
        for words in asked:
            for field in ("artist", "title"):
                one = condition(field, words)
                allowed = exact.mask(ready, [one])
                here = {t for i, t in ready.tracks() if allowed[i]}
                assert name in {getattr(t, field) for t in here}, words
                sent = expression([one], lambda f: set(ready.column(f)[1]))
                assert f'"{name}"' in sent, words
    assert exact.mask(ready, [parse("title=月亮")]).sum() == 1
    assert exact.mask(ready, [parse("artist!=邓丽君")]).sum() == len(ready) - 2


def test_the_words_of_a_question_find_them_and_what_is_meant_comes_first(shelf):
    for name, asked in NAMES.items():
        for words in asked:
            found = tracks_by_words(shelf.tables, words, 21)
            assert name in {t.title for t in found}, words
            assert name in {t.artist for t in found}, words
            if name_key(words) == name_key(name):
                assert found[0].title == name, words


def test_what_is_spelled_as_asked_comes_before_what_only_sounds_so(tmp_path):
    shelf = Shelf(tmp_path)
    rows = [
        shelf.track("Кино/01 Группа крови.flac", title="Группа крови", artist="Кино"),
        shelf.track("Various/Tribute to Kino.flac", title="Tribute", artist="Kino Band"),
        shelf.track("x/1", title="Kino"),
        shelf.track("x/2", title="Кино"),
        shelf.track("x/3", title="Other", album="Kinoteka"),
    ]
    shelf.put(rows, random_vectors(5))

    def asked(words):
        return [t.title for t in tracks_by_words(shelf.tables, words)]

    assert asked("kino") == ["Kino", "Кино", "Tribute", "Группа крови", "Other"]
    assert asked("КИНО") == ["Кино", "Kino", "Группа крови", "Tribute", "Other"]
    assert asked("Kino - Gruppa krovi") == ["Группа крови"]
    assert asked("кино gruppa") == ["Группа крови"]
    assert asked("- ???") == asked("  ") == asked("nothing kino") == []


def test_one_artist_in_two_spellings_is_one(tmp_path):
    shelf = Shelf(tmp_path)
    spelled = ["Sigur Rós", "Sigur Ros", "SIGUR RÓS", "!!!", "！！！", "AC/DC", "ACDC", "", ""]
    rows = [shelf.track(f"a/{i}", artist=name) for i, name in enumerate(spelled)]
    rows.append(shelf.track("a/seed"))
    shelf.put(rows, random_vectors(len(rows)))
    ready = shelf.searcher()
    (seed,) = (i for i, t in ready.tracks() if t.path == b"a/seed")
    found = exact.similar(ready, [seed], 20, per_artist=1)
    assert sorted(name_key(m.artist) for m in found) == ["", "", "!!!", "acdc", "sigur ros"]


TEXTS = st.text(
    st.one_of(
        st.sampled_from(" .'/-!&;"),
        st.characters(max_codepoint=0x5FF, exclude_categories=["Cs"]),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=30,
)


@given(TEXTS, TEXTS)
def test_any_words_are_found_in_themselves_and_in_a_longer_text(text, more):
    if text.strip():
        assert has_words(text, text)
        if any(c.isalnum() for c in text):
            assert has_words(f"{more} | {text} | {more}", text)


@given(TEXTS, TEXTS)
def test_however_a_text_is_composed_the_same_is_found(text, words):
    for form in ("NFC", "NFD", "NFKD"):
        other = unicodedata.normalize(form, text)
        assert has_words(other, words) == has_words(text, words)
        assert name_key(other) == name_key(text)


@given(TEXTS.filter(lambda t: t.isascii()), TEXTS.filter(lambda t: t.isascii()))
def test_plain_letters_are_found_as_they_always_were(text, words):
    """Word after word, whatever is between them."""

    def plain(t):
        return f" {' '.join(re.findall('[a-z0-9]+', t.lower()))} "

    if plain(words) != "  " and plain(words) in plain(text):
        assert has_words(text, words)


def test_random_runs_of_characters_are_found_in_scripts_without_spaces():
    rng = random.Random(1)
    for text in (
        "月亮代表我的心",
        "残酷な天使のテーゼ",
        "สวัสดีครับ",
        "사랑했지만",
        "ພາສາລາວ",
        "ភាសាខ្មែរ",
    ):
        for _ in range(20):
            a, b = sorted(rng.sample(range(len(text) + 1), 2))
            assert has_words(text, text[a:b]), (text, text[a:b])
            assert holding([text[a:b]])(f"x {text}") == 1


def test_a_question_in_plain_letters_loads_no_table_of_other_alphabets():
    code = (
        "import sys, embed_assets.cli\nfrom embed_assets.words import has_words\n"
        "assert has_words('Acid Jazz', 'jazz')\nassert 'anyascii' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
