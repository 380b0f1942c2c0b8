"""The console in Python: expecting, sending, back-pressure."""

from __future__ import annotations

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.machine import Console, ConsoleTimeout, MachineError
from tandemu.machine.console import Port


def printed(*parts: bytes, limit: int = 1 << 20) -> Console:
    console = Console(limit)
    for part in parts:
        console.transmit(part)
    return console


def test_a_string_stands_for_itself_and_uses_up_what_came_before() -> None:
    console = printed(b"a.b axb\r\nlogin: ")
    assert console.expect("a.b", 0).group() == "a.b"
    with pytest.raises(ConsoleTimeout, match=r"'a\\\\.b' did not come"):
        console.expect("a.b", 0)
    assert console.read_until("login: ", 0) == " axb\r\nlogin: "
    assert console.output == "a.b axb\r\nlogin: "


def test_an_expression_is_searched() -> None:
    console = printed(b"up after 3.25 s\n")
    match = console.expect(re.compile(r"up after ([\d.]+) s"), 0)
    assert match[1] == "3.25"


def test_what_comes_later_is_waited_for() -> None:
    console = Console()
    timer = threading.Timer(0.05, lambda: [console.transmit(bytes((b,))) for b in b"prompt # "])
    timer.start()
    console.expect("# ", 10)
    timer.join()


def test_the_end_of_the_machine_ends_the_waiting() -> None:
    console = printed(b"Kernel panic\n")
    threading.Timer(0.05, console.closed, ("the guest powered off",)).start()
    with pytest.raises(MachineError, match=r"the guest powered off\. .*Kernel panic"):
        console.expect("login:", 10)


def test_a_time_out_shows_the_last_words() -> None:
    with pytest.raises(ConsoleTimeout, match="last words: 'Kernel panic'"):
        printed(b"Kernel panic\n").expect("login:", 0.01)


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_output_of_any_bytes_is_searched_from_where_it_was_left(
    before: bytes, after: bytes
) -> None:
    console = printed(before + b"MARK" + after)
    console.expect("MARK", 0)
    console.transmit(b"END")
    assert console.read_until("END", 0) == (after + b"END").decode(errors="replace")


def test_output_is_bounded() -> None:
    console = printed(*(b"%06d\n" % number for number in range(2000)), limit=7000)
    assert len(console.output) <= 7000
    assert console.output.endswith("001999\n")
    console.expect("001999", 0)


class Guest:
    """Takes up to *room* bytes at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.received = b""

    def receive(self, data: bytes) -> int:
        taken = data[: self.room]
        self.room -= len(taken)
        self.received += taken
        return len(taken)


def test_input_waits_for_room() -> None:
    guest = Guest(2)
    console = Console()
    console.send("abcde")
    console.connect(Port(guest.receive, lambda: True))
    assert guest.received == b"ab"
    guest.room = 10
    console.feed()
    assert guest.received == b"abcde"


def test_a_deaf_guest_pushes_back() -> None:
    console = Console()
    assert console.offer(bytes(1 << 20)) == 64 << 10
    assert console.offer(b"x") == 0
    with pytest.raises(ConsoleTimeout, match="did not take its input"):
        console.send("x", timeout=0.01)
    console.closed("it is over")
    with pytest.raises(MachineError, match="it is over"):
        console.send("x")


def test_long_input_flows_as_the_guest_takes_it() -> None:
    guest = Guest(0)
    console = Console()
    console.connect(Port(guest.receive, lambda: True))
    data = bytes(range(256)) * 400
    stop = threading.Event()

    def take() -> None:
        while not stop.wait(0.0001):
            guest.room = 4096
            console.feed()

    thread = threading.Thread(target=take)
    thread.start()
    console.send(data, timeout=30)
    while len(guest.received) < len(data):
        stop.wait(0.001)
    stop.set()
    thread.join()
    assert guest.received == data


def test_a_silent_guest_that_printed_before_is_taken_to_listen() -> None:
    console = Console()
    assert not console.listening()
    listens = False
    console.connect(Port(lambda data: 0, lambda: listens))
    assert not console.listening()
    console.transmit(b"U-Boot")
    assert not console.listening()
    listens = True
    assert console.listening()
