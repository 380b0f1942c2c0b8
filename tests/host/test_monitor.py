"""The monitor's line: editing, history, completion, commands with words behind them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.host import Command
from tandemu.host.monitor import PROMPT, CommandError, Monitor


class Screen:
    """One monitor and the line that a terminal of *columns* would show."""

    def __init__(self, columns: int = 80) -> None:
        self.text, self.left, self.ran = "", 0, list[tuple[str, list[str]]]()

        def ran(name: str) -> Command:
            def run(words: list[str]) -> str:
                self.ran.append((name, words))
                if words == ["wrong"]:
                    raise CommandError("that is wrong")
                return f"{name} done"

            return Command(name, run, "[WORDS]" if name != "status" else "")

        def leave() -> None:
            self.left += 1

        commands = {name: ran(name) for name in ("stats", "status", "memory")}
        self.monitor = Monitor(commands, self.say, leave, lambda: columns)
        self.monitor.enter()

    def say(self, text: str) -> None:
        self.text += text

    def type(self, keys: bytes) -> Screen:
        for key in keys:
            self.monitor.key(key)
        return self

    @property
    def row(self) -> tuple[str, int]:
        """What the last row shows behind the prompt, and where the cursor stands in it."""
        row, cursor = list[str](), 0
        for part in re.findall(r"\x1b\[\d*[A-Z]|.", self.text.rpartition("\n")[2], re.DOTALL):
            if part == "\r":
                cursor = 0
            elif part == "\x1b[K":
                del row[cursor:]
            elif part in ("\x1b[H", "\x1b[2J"):
                row, cursor = [], 0
            elif part.startswith("\x1b["):
                cursor -= int(part[2:-1])
            else:
                row[cursor : cursor + 1] = [part]
                cursor += 1
        return "".join(row)[len(PROMPT) :], cursor - len(PROMPT)


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        (b"abc", ("abc", 3)),
        (b"abc\x1b[Dx", ("abxc", 3)),
        (b"abc\x02\x02\x7f", ("bc", 0)),
        (b"abc\x1b[Hx\x1b[Fy", ("xabcy", 5)),
        (b"abc\x1bOH\x1b[3~", ("bc", 0)),
        (b"abc\x1b[1~\x04\x06\x05d", ("bcd", 3)),
        (b"one two three\x17\x17", ("one ", 4)),
        (b"one two\x17\x17\x17", ("", 0)),
        (b"abcd\x02\x02\x0b", ("ab", 2)),
        (b"abcd\x02\x02\x15", ("cd", 0)),
        (b"abc\x03", ("", 0)),
        (b"a\x1b[99;5Xb\x1b[Z\x01\xff", ("ab", 2)),
        (b"me\t", ("memory ", 7)),
        (b"s\t", ("stat", 4)),
        (b"stat\t", ("stat", 4)),
        (b"q\t\t", ("q", 1)),
    ],
)
def test_keys_edit_the_line(keys: bytes, row: tuple[str, int]) -> None:
    assert Screen().type(keys).row == row


def test_lines_come_back() -> None:
    screen = Screen().type(b"stats 1\rstats 2\rstats 2\rdraft")
    for keys, line in (
        (b"\x1b[A", "stats 2"),
        (b"\x10", "stats 1"),
        (b"\x10", "stats 1"),
        (b"\x1b[B\x0e", "draft"),
        (b"\x0e", "draft"),
    ):
        assert screen.type(keys).row == (line, len(line))
    screen.type(b"\x10\x7f3\r")
    assert screen.ran[-1] == ("stats", ["3"])


def test_commands_take_words_and_their_mistakes_are_told() -> None:
    screen = Screen()
    for line, told in (
        (b"stats", "stats done"),
        (b"  mem 1  2 ", "memory done"),
        (b"stat", "but stats and status are"),
        (b"nonsense", "no command here; 'help' lists them"),
        (b"status now", "status takes nothing behind it"),
        (b"memory wrong", "that is wrong"),
        (b"help", "memory [WORDS]"),
        (b"", ""),
    ):
        screen.text = ""
        screen.type(line + b"\r")
        assert told in screen.text and screen.text.endswith(PROMPT)
    assert screen.ran == [("stats", []), ("memory", ["1", "2"]), ("memory", ["wrong"])]
    assert not screen.left
    screen.type(b"\x04")
    assert screen.left == 1


@given(st.binary(max_size=80), st.integers(1, 40))
def test_any_keys_leave_a_row_that_fits(keys: bytes, columns: int) -> None:
    screen = Screen(columns).type(keys)
    row, cursor = screen.row
    assert len(row) < max(columns - len(PROMPT), 9)
    assert 0 <= cursor <= len(row)
