"""The output that nobody has expected yet, as text, and searching it as it grows.

Every byte is decoded once. A plain string is looked for in what is new alone. An expression may
match from anywhere to anywhere, so all of the text is searched: again when it has grown by a
quarter, else so rarely that searching takes no more than a part of the time.
"""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Callable

_REST = 2
"""So many times as long as a search took, the next one waits, if the text grew by little."""


class Search:
    """One pattern and how far it has been looked for."""

    def __init__(self, pattern: str | re.Pattern[str]) -> None:
        self.literal = pattern if isinstance(pattern, str) else None
        self.expression = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern
        self.searched_to = -1
        """All text up to here was searched in vain, in characters from the first one ever."""
        self.not_before_s = 0.0
        """When the next search is due, if little is new."""


class Unread:
    """Text in parts, as it came; *limit* characters of it are kept."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parts: list[str] = []
        self._start = 0  # the first part's first character, counted from the first one ever
        self._end = 0
        self.position = 0
        """Up to here it is used up."""

    def feed(self, data: bytes, *, gap: bool = False) -> None:
        """Take further output; *gap*: some before it was lost, so nothing older is of use."""
        if gap:
            self._decoder.reset()
            self._parts.clear()
            self._start = self.position = self._end
        text = self._decoder.decode(data)
        if text:
            self._parts.append(text)
            self._end += len(text)
        if self._end - self._start > self._limit:
            self._cut(max(self.position, self._end - self._limit * 3 // 4))

    def text(self) -> str:
        """What is not used up."""
        return self._joined()[self.position - self._start :]

    def has_more(self, search: Search) -> bool:
        """Whether there is text that was not searched."""
        return search.searched_to != self._end

    def find(self, search: Search, *, last: bool = False) -> re.Match[str] | None:
        """Look for a pattern where it was not looked for yet; a match uses up what it ends.

        None if there is none, or if it is too early to look again (`Search.not_before_s`), save
        where it is the *last* look.
        """
        if search.searched_to == self._end:
            return None
        if search.literal is not None:
            return self._find_literal(search, search.literal)
        begun = self._clock()
        grown = self._end - max(search.searched_to, self.position)
        if not last and begun < search.not_before_s and grown * 4 < self._end - self.position:
            return None
        match = self._match(search, self.position)
        now = self._clock()
        search.searched_to, search.not_before_s = self._end, now + _REST * (now - begun)
        return match

    def _find_literal(self, search: Search, literal: str) -> re.Match[str] | None:
        start = max(search.searched_to - len(literal) + 1, self.position)
        search.searched_to = self._end
        if literal not in self._from(start):
            return None
        return self._match(search, start)

    def _match(self, search: Search, start: int) -> re.Match[str] | None:
        text = self._joined()
        pattern = search.expression.pattern
        if self.position > self._start and ("^" in pattern or "\\A" in pattern):
            self._cut(self.position)  # it means the place where the last match ended
            text = self._joined()
        match = search.expression.search(text, start - self._start)
        if match is not None:
            self.position = self._start + match.end()
            if self.position - self._start > (self._end - self._start) // 2:
                self._cut(self.position)
        return match

    def _from(self, start: int) -> str:
        """The text from *start* on, which is mostly in the last parts."""
        parts: list[str] = []
        place = self._end
        for part in reversed(self._parts):
            if place <= start:
                break
            place -= len(part)
            parts.append(part)
        return "".join(reversed(parts))[max(start - place, 0) :]

    def _joined(self) -> str:
        if len(self._parts) != 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    def _cut(self, start: int) -> None:
        """Forget what is before *start*."""
        self._parts = [self._joined()[start - self._start :]]
        self._start = start
        self.position = max(self.position, start)
