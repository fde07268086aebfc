"""A large JSON object read member by member, and lists in it item by item, so that little of it is held at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from circuitlens.files.reading import DECODER, MAX_KEYS, no_utf8, too_deep

SPACES = re.compile(r"[ \n\r\t]*")
LONGEST = 1_000_000
"""Characters of one member or item."""
PIECE = 1_000_000
"""Bytes that are decoded at a time."""


def stream_object(data: bytes, each: Mapping[str, Callable[[Any], None]]) -> dict[str, Any]:
    """The members of the JSON object that a text is. The items of the lists named in `each` go to the functions there,
    one by one, and of such a list the length is returned.

    Raises:
        ValueError: it is no JSON object, has a key twice, a value of over a million characters, or one that
            `parse_json` refuses; or what the functions raise.
    """
    text, members = _Window(data), dict[str, Any]()
    try:
        text.expect("{")
        while text.peek() != "}":
            if members and not text.goes_on():
                raise ValueError("there is no comma between two of its members")
            key = text.value()
            if not isinstance(key, str) or key in members or len(members) == MAX_KEYS:
                raise ValueError(f"the key {key!r:.60} is there twice, is no text, or is one of too many")
            text.expect(":")
            members[key] = _items(text, key, each[key]) if key in each else text.value()
        text.expect("}")
        if text.peek():
            raise ValueError("something follows its end")
    except RecursionError:
        raise too_deep() from None
    return members


def _items(text: _Window, key: str, each: Callable[[Any], None]) -> int:
    """Hand on the items of a list, and count them."""
    count = 0
    if text.peek() != "[":
        raise ValueError(f"{key!r} is no list")
    text.expect("[")
    if text.peek() != "]":
        each(text.value())
        count = 1
        while text.goes_on():
            each(text.value())
            count += 1
    text.expect("]")
    return count


class _Window:
    """A text of which so much is decoded that the next value is whole."""

    def __init__(self, data: bytes):
        self._data, self._decoded = data, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            if len(self._text) - self._at < LONGEST and self._decoded < len(self._data):
                self._fill()
            if self._at < len(self._text) and not self._text[self._at].isspace():
                return self._text[self._at]
            self._at = SPACES.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._decoded == len(self._data):
                return self._text[self._at : self._at + 1]

    def goes_on(self) -> bool:
        """Go past a comma, if it is next."""
        comma = self.peek() == ","
        self._at += comma
        return comma

    def expect(self, character: str) -> None:
        """Go past a character that has to be next."""
        if (found := self.peek()) != character:
            raise ValueError(f"it has {found!r} where {character!r} should be" if found else "it breaks off")
        self._at += 1

    def value(self) -> Any:
        """The next value."""
        self.peek()
        start = self._at
        try:
            value, self._at = DECODER.raw_decode(self._text, start)
        except json.JSONDecodeError as fault:
            whole = self._decoded == len(self._data)
            more = "" if whole else f", or a value has over {LONGEST:,} characters"
            raise ValueError(f"{fault.msg} at {self._text[start : start + 40]!r}{more}") from None
        if self._at - start > LONGEST:
            raise ValueError(f"a value in it has over {LONGEST:,} characters")
        return value

    def _fill(self) -> None:
        self._text, self._at = self._text[self._at :], 0
        pieces, length = [self._text], len(self._text)
        while length <= LONGEST and self._decoded < len(self._data):
            end = min(self._decoded + PIECE, len(self._data))
            try:
                pieces.append(self._decoder.decode(self._data[self._decoded : end], final=end == len(self._data)))
            except UnicodeDecodeError as fault:
                pending = len(fault.object) - (end - self._decoded)
                raise no_utf8(fault, self._decoded - pending + fault.start) from None
            self._decoded, length = end, length + len(pieces[-1])
        self._text = "".join(pieces)
