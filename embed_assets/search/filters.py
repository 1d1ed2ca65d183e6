"""Filters on the fields of a row, as people write them; evaluated here or by Milvus.

Text matches whole words in sequence, ignoring case and accents (see `words.py`): `genre=jazz`
matches "Acid Jazz; Fusion" but not "Jazzy". Numbers and times are ranges with both ends included:
`1955..1965`, `1990..`, `..2m30s`, `2026-01..2026-03`, or one value. 0 means unknown, and matches no
range.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from embed_assets.errors import ConfigurationError
from embed_assets.index.row import NUMBERS, TEXT_BYTES, TrackRow
from embed_assets.words import has_words

FIELDS = tuple(f.name for f in fields(TrackRow))
TIMES = tuple(n for n in NUMBERS if n.endswith("_at"))

Vocabulary = Callable[[str], Iterable[str]]
"""Field -> its distinct values in the library."""


@dataclass(frozen=True)
class Condition:
    """One condition on a field: `words` in a text, or a range of a number, ends included.

    `negate`: matches the rows that do not match otherwise, including those with an unknown number.
    """

    field: str
    words: str = ""
    low: float = float("-inf")
    high: float = float("inf")
    negate: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the field is text."""
        return self.field in TEXT_BYTES

    def fits(self, value: str | float) -> bool:
        """Whether a row with this value matches."""
        if self.is_text:
            return has_words(str(value), self.words) != self.negate
        return (bool(value) and self.low <= float(value) <= self.high) != self.negate


def condition(field: str, text: str, *, negate: bool = False) -> Condition:
    """Parse a condition on a field, e.g. ("year", "1955..1965").

    Raises:
        ConfigurationError: there is no such field, or the text is not a range of its type.
    """
    if field not in FIELDS:
        raise ConfigurationError(
            f"there is no field {field!r}; the fields are: {', '.join(FIELDS)}"
        )
    if field in TEXT_BYTES:
        if not text.strip():
            raise ConfigurationError(f"{field}: no words given")
        return Condition(field, words=text, negate=negate)
    low, dots, high = text.partition("..")
    high = high if dots else low
    if field in TIMES:
        read, write = _time, "a date or a range of dates: 2026, 2026-03, 2026-03-31, 2026-01.."
    elif field == "duration":
        read, write = seconds, "a duration or a range: 90, 2m, 1m30s, 1:30 or 1h, 2m..5m"
    else:
        read, write = _number, "a whole number or a range: 1959, 1955..1965, 1990.., ..1960"
    try:
        least = read(low, top=False) if low.strip() else float("-inf")
        most = read(high, top=True) if high.strip() else float("inf")
    except ValueError as e:
        raise ConfigurationError(f"{field}: {e}; write {write}") from None
    if not text.strip(". "):
        raise ConfigurationError(
            f"{field}: {text!r} has neither a lower nor an upper bound; write {write}"
        )
    if least > most:
        raise ConfigurationError(f"{field}={text!r}: {low} is more than {high}; swap them")
    return Condition(field, low=least, high=most, negate=negate)


def parse(text: str) -> Condition:
    """Parse `FIELD=WORDS`, `FIELD!=WORDS` or `FIELD=MIN..MAX`.

    Raises:
        ConfigurationError: it is not a condition.
    """
    found = re.fullmatch(r"\s*([a-z_]+)\s*(!?=)(.*)", text, re.S)
    if not found:
        raise ConfigurationError(
            f"{text!r} is not a condition: write FIELD=WORDS, FIELD!=WORDS or FIELD=MIN..MAX,"
            " e.g. genre=jazz or year=1955..1965"
        )
    return condition(found[1], found[3], negate=found[2] == "!=")


def conditions(where: str | Sequence[str | Condition]) -> list[Condition]:
    """Parse conditions: several in one text, or a sequence with one in each.

    In one text they are separated by spaces, and a value with spaces is quoted: `genre="acid jazz"
    year=1955..1965`.

    Raises:
        ConfigurationError: one of them is not a condition.
    """
    if not isinstance(where, str):
        return [one if isinstance(one, Condition) else parse(one) for one in where]
    try:
        return [parse(one) for one in shlex.split(where)]
    except (ValueError, ConfigurationError) as e:
        raise ConfigurationError(
            f'{e} (put a value with spaces or a quotation mark in quotes: `genre="acid jazz"'
            " year=1955..1965`)"
        ) from None


def expression(conditions: Sequence[Condition], vocabulary: Vocabulary) -> str:
    """The conditions as a filter of Milvus (Lite or server); empty if there are none.

    Words are looked up in the values that the library has (`vocabulary`), so the filter contains
    only comparisons with quoted values, which every version of Milvus supports.
    """
    return " and ".join(f"({_expression(c, vocabulary)})" for c in conditions)


def quoted(text: str) -> str:
    """A text as a quoted literal of a Milvus filter."""
    return '"' + "".join(_ESCAPES.get(c, c) for c in text) + '"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _expression(c: Condition, vocabulary: Vocabulary) -> str:
    if c.is_text:
        values = sorted({v for v in vocabulary(c.field) if has_words(v, c.words)})
        inside = f"{c.field} in [{', '.join(map(quoted, values))}]" if values else 'track_id == ""'
        return f"not ({inside})" if c.negate else inside
    whole = c.field != "duration"
    parts = [f"{c.field} != 0"]
    if c.low != float("-inf"):
        parts.append(f"{c.field} >= {_literal(c.low, whole=whole)}")
    if c.high != float("inf"):
        parts.append(f"{c.field} <= {_literal(c.high, whole=whole)}")
    inside = " and ".join(parts)
    return f"not ({inside})" if c.negate else inside


def _literal(value: float, *, whole: bool) -> str:
    return str(int(value)) if whole else repr(float(value))


def _number(text: str, *, top: bool) -> float:
    if not re.fullmatch(r"\s*\d{1,15}\s*", text):
        raise ValueError(f"{text.strip()!r} is not a number")
    return float(int(text))


_PARTS = re.compile(r"\s*(?:(\d+)h)?\s*(?:(\d+)m(?:in)?)?\s*(?:(\d+(?:\.\d+)?)s?)?\s*")


def seconds(text: str, *, top: bool = False) -> float:
    """Parse `90`, `90s`, `2m`, `1m30s`, `1:30` or `1h` into seconds."""
    if clock := re.fullmatch(r"\s*(?:(\d+):)?(\d+):(\d\d)\s*", text):
        parts = clock.groups()
    elif (words := _PARTS.fullmatch(text)) and text.strip():
        parts = words.groups()
    else:
        raise ValueError(f"{text.strip()!r} is not a duration")
    h, m, s = (float(x or 0) for x in parts)
    return h * 3600 + m * 60 + s


def _time(text: str, *, top: bool) -> float:
    """Parse `2026`, `2026-03`, `2026-03-31` (UTC) or seconds since 1970; `top`: its last second."""
    found = re.fullmatch(r"\s*(\d{4})(?:-(\d\d?)(?:-(\d\d?))?)?\s*", text)
    if not found:
        if re.fullmatch(r"\s*\d{1,15}\s*", text):
            return float(int(text))
        raise ValueError(f"{text.strip()!r} is not a date")
    year, month, day = (int(x) if x else 0 for x in found.groups())
    try:
        start = datetime(year, month or 1, day or 1, tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{text.strip()!r} is not a date") from None
    if not top:
        return start.timestamp()
    if day:
        return start.timestamp() + 86_399
    after = datetime(year + (month in (0, 12)), month % 12 + 1 if month else 1, 1, tzinfo=UTC)
    return after.timestamp() - 1
