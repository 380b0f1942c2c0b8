"""Output is written whole, in order, and a stuck reader makes the guest wait."""

from __future__ import annotations

import contextlib
import os
import threading

from tandemu.host import OutputPump


def test_everything_is_written_in_order() -> None:
    reading, writing = os.pipe()
    pump = OutputPump(writing)
    wanted = b"".join(b"%d\n" % number for number in range(2000))
    for byte in wanted:
        pump.write(bytes((byte,)))
    pump.close()
    os.close(writing)
    with os.fdopen(reading, "rb") as reader:
        assert reader.read() == wanted
    assert pump.last_byte == b"\n"


def test_a_stuck_reader_holds_the_writer_up_until_it_is_closed() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    lost: list[OSError] = []
    pump = OutputPump(writing, lost=lost.append, limit_bytes=1000)
    written = threading.Event()

    def write() -> None:
        for _ in range(2000):
            pump.write(b"x" * 100)
        written.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert not written.wait(0.3)
    pump.close(patience_s=0.1)
    assert written.wait(10)
    thread.join()
    assert [type(error) for error in lost] == [TimeoutError]
    os.close(reading)
    os.close(writing)


def test_held_output_comes_later() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    pump = OutputPump(writing)
    pump.hold(True)
    pump.write(b"later")
    try:
        early = os.read(reading, 10)
    except BlockingIOError:
        early = b""
    assert early == b""
    os.set_blocking(reading, True)
    pump.hold(False)
    assert os.read(reading, 10) == b"later"
    pump.close()
    os.close(reading)
    os.close(writing)


def test_a_lost_reader_is_told_once_and_output_is_dropped() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lost: list[OSError] = []
    told = threading.Event()
    pump = OutputPump(writing, lost=lambda error: (lost.append(error), told.set()))
    pump.write(b"x")
    assert told.wait(10)
    pump.write(b"y")
    pump.close()
    assert [type(error) for error in lost] == [BrokenPipeError]
    os.close(writing)


def test_closing_waits_as_long_as_the_reader_takes_some() -> None:
    reading, writing = os.pipe()
    pump = OutputPump(writing)
    wanted = bytes(1 << 20)
    writer = threading.Thread(target=lambda: (pump.write(wanted), pump.close(None)))
    writer.start()
    seen = 0
    while seen < len(wanted):
        seen += len(os.read(reading, 5000))
    writer.join()
    os.close(reading)
    os.close(writing)
