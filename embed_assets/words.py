"""When words are found in a text, whatever the case, the accents, the alphabet and the signs.

A text is compared in two forms, each of words between spaces. Letters become those of a plain
keyboard (`Łódź` and `Ёлка` are "lodz" and "elka"); signs part words in the first form and vanish
in the second (`AC/DC` is "ac dc" and "acdc"). In scripts that put no spaces between words, and in
Korean, whose spaces people put as they like, each character is a word of its own and stays as it
is: any run of characters is found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

_UNSPACED = {
    *("BOPOMOFO", "CJK", "HANGUL", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA", "KATAKANA-HIRAGANA"),
    *("BALINESE", "CHAM", "JAVANESE", "KHMER", "LAO", "MYANMAR", "NEW", "TAI", "THAI", "YI"),
}
"""How Unicode's names of the characters of such scripts begin ("NEW": New Tai Lue)."""


def has_words(text: str, words: str) -> bool:
    """Whether these words stand in a text one after the other, as whole words.

    Words of signs alone, as `!!!`, are compared with the words of the text as they are.
    """
    apart, joined = _forms(words)
    if apart == _EMPTY:
        return _has_signs(text, words)
    there = _forms(text)
    return apart in there[0] or joined in there[1]


def holding(words: Sequence[str]) -> Callable[[str], int]:
    """A function that says how many of these words a text holds, also within its words.

    Words of signs alone count only if there are no others: else they always do.
    """
    plain = [word for word in words if _forms(word)[0] != _EMPTY]
    if not plain:
        signs = [_composed(word) for word in words]
        return lambda text: sum(sign in _composed(text) for sign in signs)
    always = len(words) - len(plain)
    # A word that signs part may be found in parts, as AC/DC in "AC DC".
    parted = any(len(_apart(word).split()) > 1 for word in plain)
    asked = [(_bare(word), _apart(word)) for word in plain]

    def count(text: str) -> int:
        bare = _bare(text)
        if not parted:
            return always + sum(word in bare for word, _ in asked)
        apart = _apart(text)
        return always + sum(word in bare or parts in apart for word, parts in asked)

    return count


def name_key(name: str) -> str:
    """A text that is equal for two spellings of one name."""
    return _forms(name)[1].strip() or _composed(name).strip()


def names_in(tag: str) -> list[str]:
    """The names in a tag, which several values share as "A; B"."""
    return [name for name in tag.split("; ") if name.strip()]


_EMPTY = "  "


@lru_cache(maxsize=1 << 17)
def _forms(text: str) -> tuple[str, str]:
    """The words of a text between spaces: parted by signs, and with their signs left out."""
    return _apart(text), f" {' '.join(_normal(text).translate(_JOINED).split())} "


def _apart(text: str) -> str:
    return f" {' '.join(_normal(text).translate(_APART).split())} "


def _bare(text: str) -> str:
    """A text without its signs, and without spaces beside the characters of unspaced scripts."""
    return _normal(text).translate(_BARE)


def _normal(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _has_signs(text: str, words: str) -> bool:
    text, words = _composed(text).strip(), _composed(words).strip()
    there, asked = (" ".join(re.split(r"[\s;,]+", t)).strip() for t in (text, words))
    return text == words or (bool(asked) and f" {asked} " in f" {there} ")


def _composed(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


class _Table(dict[int, str | None]):
    """For `str.translate`: what each character becomes, found at its first use.

    `sign`: what a sign becomes. `unspaced`: what a character does of a script without spaces.
    """

    def __init__(self, sign: str | None, unspaced: str) -> None:
        super().__init__()
        self.sign, self.unspaced = sign, unspaced

    def __missing__(self, code: int) -> str | None:
        found = self[code] = self._letters(chr(code))
        return found

    def _letters(self, c: str) -> str | None:
        kind = unicodedata.category(c)
        if c.isspace():
            return " "
        if kind == "Cf":
            return None  # such as a soft hyphen
        if kind[0] not in "LMN":
            return self.sign
        if c.isascii():
            return c.lower()
        if c.isdecimal():
            return str(unicodedata.decimal(c))
        if unicodedata.name(c, "").partition(" ")[0] in _UNSPACED:
            return self.unspaced.format(c)
        # Seven milliseconds that a question in plain letters does without.
        from anyascii import anyascii

        plain = anyascii(c).lower()
        if plain or kind[0] == "M":
            # What a soft sign or an alef becomes, an apostrophe, is left out of words, too.
            return "".join(filter(str.isalnum, plain)) or None
        return c.casefold()


_APART, _JOINED, _BARE = _Table(" ", " {} "), _Table(None, " {} "), _Table(None, "{}")
