"""The console device: a terminal on port 0, programs of the host's on the others."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandemu.device.virtio.console import ROOM_BYTES, Console, Event, NamedPort
from tandemu.device.virtio.features import NEEDS_RESET
from tandemu.device.virtio.vsock import listen
from tests.device.virtio.driver import RAM_BASE, SPLIT, VARIANTS, Buffer, Driver, make_memory

RECEIVE, TRANSMIT, CONTROL_RECEIVE, CONTROL_TRANSMIT, PORT_RECEIVE, PORT_TRANSMIT = range(6)
MULTIPORT = 1 << 1


class Bed:
    def __init__(self, folder: Path, features: int = SPLIT, multiport: bool = True) -> None:
        self.printed = bytearray()
        self.rooms = threading.Semaphore(0)
        self.path = str(folder / "port")
        self.listener = listen(self.path)
        self.driver = Driver(make_memory())
        self.console = Console(
            *(self.driver.memory, self.printed.extend, self.rooms.release),
            ports=[NamedPort("org.example", self.listener)],
        )
        self.driver.attach(self.console)
        own = self.console.features & ~(0 if multiport else MULTIPORT)
        self.rings = self.driver.start(*[16] * 6, features=features | own)
        self.buffers: dict[tuple[int, int], Buffer] = {}
        for queue in (RECEIVE, CONTROL_RECEIVE, PORT_RECEIVE):
            for _ in range(8):
                self.offer(queue, self.driver.room(64))

    def offer(self, queue: int, buffer: Buffer) -> None:
        self.buffers[queue, self.rings[queue].add([], [buffer])] = buffer
        self.rings[queue].kick()

    def get(self, queue: int) -> bytes:
        head, written = self.rings[queue].wait()
        buffer = self.buffers.pop((queue, head))
        data = self.driver.read(buffer)[:written]
        self.offer(queue, buffer)
        return data

    def say(self, port: int, event: Event, value: int = 1) -> None:
        self.rings[CONTROL_TRANSMIT].call([struct.pack("<IHH", port, event, value)])

    def expect(self, port: int, event: Event, value: int = 1) -> bytes:
        data = self.get(CONTROL_RECEIVE)
        assert struct.unpack_from("<IHH", data) == (port, event, value)
        return data[8:]

    def open_all(self) -> None:
        self.say(0, Event.DEVICE_READY)
        self.expect(0, Event.PORT_ADD)
        self.expect(1, Event.PORT_ADD)
        self.say(0, Event.PORT_READY)
        self.expect(0, Event.CONSOLE)
        self.expect(0, Event.OPEN)
        self.say(1, Event.PORT_READY)
        assert self.expect(1, Event.NAME) == b"org.example"
        self.say(0, Event.OPEN)
        self.say(1, Event.OPEN)

    def close(self) -> None:
        self.console.close()
        self.listener.close()


@pytest.fixture(params=list(VARIANTS))
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    bed = Bed(tmp_path, VARIANTS[request.param])
    yield bed
    bed.close()


def test_the_terminal(bed: Bed) -> None:
    assert not bed.console.listening
    bed.open_all()
    assert bed.console.listening
    bed.rings[TRANSMIT].call([b"printed ", b"by the guest"])
    assert bed.printed == b"printed by the guest"
    assert bed.console.receive(b"typed") == 5
    assert bed.get(RECEIVE) == b"typed"
    assert bed.rooms.acquire(timeout=60)
    bed.console.resize(132, 43)
    assert bed.expect(0, Event.RESIZE, 0) == struct.pack("<HH", 132, 43)
    assert struct.unpack("<HH", struct.pack("<I", bed.driver.get(0x2000))) == (132, 43)


def test_much_input_waits(bed: Bed) -> None:
    bed.open_all()
    content = bytes(range(256)) * 300
    taken = bed.console.receive(content)
    assert 0 < taken <= ROOM_BYTES + 8 * 64
    received = b""
    while len(received) < taken:
        received += bed.get(RECEIVE)
    assert received == content[:taken]


def test_a_program_on_a_port(bed: Bed) -> None:
    bed.open_all()
    bed.rings[PORT_TRANSMIT].call([b"nobody hears"])
    with socket.socket(socket.AF_UNIX) as program:
        program.settimeout(60)
        program.connect(bed.path)
        bed.expect(1, Event.OPEN)
        program.sendall(b"x" * 1000)
        received = b""
        while len(received) < 1000:
            received += bed.get(PORT_RECEIVE)
        bed.rings[PORT_TRANSMIT].call([b"answer"])
        assert program.recv(100) == b"answer"
        with socket.socket(socket.AF_UNIX) as second:
            second.settimeout(60)
            second.connect(bed.path)
            assert second.recv(1) == b"", "one at a time"
    bed.expect(1, Event.OPEN, 0)


def test_a_slow_program_holds_its_port_up_and_no_other(bed: Bed) -> None:
    bed.open_all()
    with socket.socket(socket.AF_UNIX) as program:
        program.settimeout(60)
        program.connect(bed.path)
        bed.expect(1, Event.OPEN)
        ring = bed.rings[PORT_TRANSMIT]
        big = bed.driver.place(b"y" * (1 << 20))
        ring.add([big])
        ring.kick()
        bed.rings[TRANSMIT].call([b"goes on"])
        assert ring.used() is None and bed.printed == b"goes on"
        size = 0
        while size < 1 << 20:
            size += len(program.recv(1 << 16))
        ring.wait()


def test_without_ports(tmp_path: Path) -> None:
    bed = Bed(tmp_path, multiport=False)
    assert bed.console.listening
    bed.console.receive(b"typed")
    assert bed.get(RECEIVE) == b"typed"
    bed.console.resize(80, 25)
    assert bed.driver.interrupted.wait(60)
    bed.close()


def test_messages_that_cannot_be(bed: Bed) -> None:
    for message in (b"", b"short", struct.pack("<IHH", 99, 6, 1), b"\xff" * 8, b"\xff" * 100):
        bed.rings[CONTROL_TRANSMIT].call([message] if message else [b"x"])
    for _ in range(300):
        bed.say(0, Event.DEVICE_READY, 1)
    bed.driver.put(0x14, 1, 0)
    assert not bed.console.listening


def test_the_emergency_register(bed: Bed) -> None:
    bed.driver.put(0x2008, 4, ord("!"))
    assert bed.printed == b"!"


def test_output_that_is_too_long_to_be_copied(bed: Bed) -> None:
    bed.open_all()
    with socket.socket(socket.AF_UNIX) as program:
        program.connect(bed.path)
        bed.expect(1, Event.OPEN)
        ring = bed.rings[PORT_TRANSMIT]
        bed.driver.interrupted.clear()
        ring.add([Buffer(RAM_BASE, 3 << 20)] * 400, indirect=True)
        ring.kick()
        while not bed.driver.status & NEEDS_RESET:
            assert bed.driver.interrupted.wait(60)
            bed.driver.interrupted.clear()
