"""Expecting: the same matches as a search of all text, at a cost that grows with the output."""

from __future__ import annotations

import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.machine import Console, ConsoleTimeout
from tandemu.machine.unread import Search, Unread

PATTERNS = ("ab", "a", "b\n", "é", re.compile("a+b"), re.compile("^b"), re.compile("(?m)a$"))


@given(
    st.lists(st.binary(max_size=6) | st.sampled_from([b"ab", b"aab\n", b"\xc3", b"\xa9", b"b"])),
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=6),
)
def test_it_finds_what_a_search_of_all_text_finds(parts: list[bytes], patterns: list) -> None:
    unread = Unread(1 << 20)
    for part in parts:
        unread.feed(part)
    text = unread.text()
    for pattern in patterns:
        expression = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern
        wanted = expression.search(text)
        found = unread.find(Search(pattern), last=True)
        assert (found is None) == (wanted is None)
        if wanted is not None and found is not None:
            assert found.group() == wanted.group()
            text = text[wanted.end() :]
        assert unread.text() == text


@given(st.lists(st.sampled_from([b"x", b"ab", b"a", b"b", b"xyz" * 9]), max_size=30))
def test_a_string_is_found_as_soon_as_it_is_there(parts: list[bytes]) -> None:
    unread, search, whole = Unread(1 << 20), Search("abab"), b""
    for part in parts:
        unread.feed(part)
        whole += part
        match = unread.find(search)
        assert (match is not None) == (b"abab" in whole)
        if match is not None:
            assert whole[: match.end() - len(unread.text())] is not None
            return


def test_searching_an_expression_takes_only_a_part_of_the_time() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0  # each search takes a second
        return now

    unread, search = Unread(1 << 20, clock), Search(re.compile("never"))
    unread.feed(b"x" * 1000)
    searches = 0
    for _ in range(90):
        now += 0.1
        unread.feed(b"y")
        before = search.searched_to
        unread.find(search)
        searches += search.searched_to != before
    assert 1 < searches <= 45
    unread.feed(b"z" * 400)  # much is new
    unread.find(search)
    assert not unread.has_more(search)


def test_what_is_kept_is_bounded_and_a_gap_is_not_bridged() -> None:
    unread = Unread(1000)
    for number in range(500):
        unread.feed(b"%05d\n" % number)
    assert len(unread.text()) <= 1000
    assert unread.text().endswith("00499\n")
    unread.feed(b"ab", gap=True)
    assert unread.text() == "ab"


def test_a_time_out_holds_while_megabytes_arrive() -> None:
    console = Console()
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            console.transmit(b"0123456789abcdef" * 64)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for pattern in ("never", re.compile("n[e]ver")):
            begun = time.monotonic()
            with pytest.raises(ConsoleTimeout):
                console.expect(pattern, 0.5)
            assert time.monotonic() - begun < 20
    finally:
        stop.set()
        thread.join()


def test_many_matches_in_much_output_do_not_read_it_all_each_time() -> None:
    console = Console()
    for start in range(0, 200_000, 1000):
        console.transmit(b"".join(b"line %d\n" % number for number in range(start, start + 1000)))
    for number in range(0, 200_000, 40):
        console.expect(f"line {number}\n", 60)
        console.expect(re.compile(f"line {number + 20}$", re.MULTILINE), 60)
