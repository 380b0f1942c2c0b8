"""The socket device between a driver of ours and programs on the host."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandemu.device.virtio.features import NEEDS_RESET
from tandemu.device.virtio.vsock import Vsock, listen
from tandemu.device.virtio.vsock_packet import HEADER, Operation, Packet
from tests.device.virtio.driver import SPLIT, VARIANTS, Buffer, Driver, make_memory

HOST, GUEST = 2, 3
ROOM = 1 << 18
BUFFERS = 12
BUFFER_BYTES = HEADER.size + 4096


class Guest:
    """The guest's side: it keeps buffers to be filled, and sends packets."""

    def __init__(self, path: Path, features: int = SPLIT) -> None:
        self.path = str(path)
        self.driver = Driver(make_memory())
        self.device = Vsock(self.driver.memory, listen(self.path), self.path)
        self.driver.attach(self.device)
        self.receive, self.transmit, _ = self.driver.start(16, 16, 16, features=features)
        self.buffers: dict[int, Buffer] = {}
        for _ in range(BUFFERS):
            self.offer(self.driver.room(BUFFER_BYTES))
        self.receive.kick()
        self.outgoing = self.driver.room(HEADER.size + 8192)

    def offer(self, buffer: Buffer) -> None:
        self.buffers[self.receive.add([], [buffer])] = buffer

    def send(
        self, operation: int, source: int, target: int, data: bytes = b"", **fields: int
    ) -> None:
        packet = Packet(
            *(fields.get("cid", GUEST), fields.get("to", HOST), source, target),
            *(fields.get("length", len(data)), fields.get("kind", 1), operation),
            *(fields.get("flags", 0), fields.get("room", ROOM), fields.get("taken", 0)),
        )
        self.driver.memory.write(self.outgoing.address, packet.pack() + data)
        self.transmit.add([Buffer(self.outgoing.address, HEADER.size + len(data))])
        self.transmit.kick()
        self.transmit.wait()

    def get(self) -> tuple[Packet, bytes]:
        head, written = self.receive.wait()
        buffer = self.buffers.pop(head)
        data = self.driver.read(buffer)[:written]
        self.offer(buffer)
        self.receive.kick()
        packet = Packet.unpack(data)
        assert len(data) == HEADER.size + packet.length
        assert (packet.source_cid, packet.target_cid) == (HOST, GUEST)
        return packet, data[HEADER.size :]

    def expect(self, operation: Operation) -> Packet:
        packet, _ = self.get()
        assert packet.operation == operation
        return packet

    def close(self) -> None:
        self.device.close()
        self.device.listener.close()


@pytest.fixture(params=list(VARIANTS))
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path / "vsock", VARIANTS[request.param])
    yield guest
    guest.close()


def connect(guest: Guest, port: int = 52) -> tuple[socket.socket, int]:
    """A program on the host connects to a port of the guest's; its socket and the host's port."""
    program = socket.socket(socket.AF_UNIX)
    program.settimeout(60)
    program.connect(guest.path)
    program.sendall(b"CONNECT %d\n" % port)
    request = guest.expect(Operation.REQUEST)
    assert request.target_port == port
    guest.send(Operation.RESPONSE, port, request.source_port)
    line = b""
    while not line.endswith(b"\n"):
        line += program.recv(1)
    assert line == b"OK %d\n" % request.source_port
    return program, request.source_port


def test_the_host_connects(guest: Guest) -> None:
    program, port = connect(guest)
    program.sendall(b"to the guest")
    packet, data = guest.get()
    assert (packet.operation, packet.source_port, data) == (Operation.DATA, port, b"to the guest")
    guest.send(Operation.DATA, 52, port, b"to the host")
    assert program.recv(100) == b"to the host"
    program.shutdown(socket.SHUT_WR)
    assert guest.expect(Operation.SHUTDOWN).flags == 2
    guest.send(Operation.DATA, 52, port, b"the last word")
    guest.send(Operation.SHUTDOWN, 52, port, flags=3)
    guest.expect(Operation.RESET)
    assert program.recv(100) == b"the last word"
    assert program.recv(100) == b""


def test_the_guest_connects(guest: Guest) -> None:
    with listen(f"{guest.path}_80") as server:
        server.setblocking(True)
        guest.send(Operation.REQUEST, 1000, 80)
        assert guest.expect(Operation.RESPONSE).source_port == 80
        program, _ = server.accept()
        guest.send(Operation.DATA, 1000, 80, b"hello")
        assert program.recv(10) == b"hello"
        program.close()
        guest.expect(Operation.SHUTDOWN)
        guest.send(Operation.RESET, 1000, 80)
    guest.send(Operation.REQUEST, 1000, 81)
    refused = guest.expect(Operation.RESET)
    assert (refused.source_port, refused.target_port) == (81, 1000)


def test_much_data_both_ways(guest: Guest) -> None:
    program, port = connect(guest)
    content = bytes(range(256)) * 512
    sender = threading.Thread(target=program.sendall, args=(content,))
    sender.start()
    received = b""
    while len(received) < len(content):
        packet, data = guest.get()
        assert packet.operation == Operation.DATA
        received += data
        guest.send(Operation.CREDIT_UPDATE, 52, port, taken=len(received))
    sender.join()
    assert received == content
    answer = bytearray()
    for start in range(0, len(content), 4096):
        guest.send(Operation.DATA, 52, port, content[start : start + 4096], taken=len(received))
        while len(answer) < start + 4096:
            answer += program.recv(4096)
    assert bytes(answer) == content


def test_a_guest_without_room_is_sent_nothing(guest: Guest) -> None:
    program, port = connect(guest)
    guest.send(Operation.CREDIT_UPDATE, 52, port, room=5)
    program.sendall(b"0123456789")
    assert guest.get()[1] == b"01234"
    guest.send(Operation.CREDIT_REQUEST, 52, port, room=5)
    assert guest.expect(Operation.CREDIT_UPDATE).room == 256 << 10
    guest.send(Operation.CREDIT_UPDATE, 52, port, room=5, taken=5)
    assert guest.get()[1] == b"56789"


def test_who_sends_more_than_there_is_room_for_is_cut_off(guest: Guest) -> None:
    program, port = connect(guest)
    operations = []
    for _ in range(200):  # the program takes nothing
        guest.send(Operation.DATA, 52, port, bytes(8192))
        if guest.receive.used() is not None:
            operations.append(1)
            break
    assert operations, "a RESET or a credit came"
    program.close()


@pytest.mark.parametrize(
    "line", [b"HELLO\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT 99999999999\n", b"C" * 40]
)
def test_programs_that_say_something_else(guest: Guest, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as program:
        program.settimeout(60)
        program.connect(guest.path)
        program.sendall(line)
        with contextlib.suppress(ConnectionResetError):
            assert program.recv(10) == b""


def test_packets_that_cannot_be(guest: Guest) -> None:
    for operation in (0, 2, 4, 5, 6, 7, 99, 0xFFFF):
        guest.send(operation, 1, 1)
        assert guest.expect(Operation.RESET).target_port == 1
    guest.send(Operation.REQUEST, 1, 80, kind=2)
    guest.expect(Operation.RESET)
    guest.send(Operation.REQUEST, 1, 80, cid=7)
    guest.send(Operation.REQUEST, 1, 80, to=9)
    guest.transmit.add([guest.driver.place(b"short")])
    guest.transmit.kick()
    guest.transmit.wait()
    program, port = connect(guest)
    guest.send(Operation.DATA, 52, port, b"x", length=100)
    guest.expect(Operation.RESET)
    assert program.recv(10) == b""


def test_a_queue_that_is_broken_when_a_program_comes(tmp_path: Path) -> None:
    guest = Guest(tmp_path / "vsock")
    guest.driver.memory.write(guest.receive.areas[1] + 2, struct.pack("<H", 5000))
    guest.driver.interrupted.clear()
    with socket.socket(socket.AF_UNIX) as program:
        program.connect(guest.path)
        program.sendall(b"CONNECT 5\n")
        while not guest.driver.status & NEEDS_RESET:
            assert guest.driver.interrupted.wait(60)
            guest.driver.interrupted.clear()
    rings = guest.driver.start(16, 16, 16, features=SPLIT)
    guest.receive, guest.transmit, _ = rings
    guest.buffers.clear()
    guest.offer(guest.driver.room(BUFFER_BYTES))
    connect(guest)[0].close()
    guest.close()


def test_a_reset_closes_everything(guest: Guest) -> None:
    program, _ = connect(guest)
    stranger = socket.socket(socket.AF_UNIX)
    stranger.settimeout(60)
    stranger.connect(guest.path)
    guest.driver.put(0x14, 1, 0)
    assert program.recv(10) == b""
    program.close()
    stranger.close()


def test_a_socket_that_nobody_listens_at_any_more(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listen(path).close()
    second = listen(path)
    with pytest.raises(OSError):
        listen(path)
    second.close()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError):
        listen(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "kept"


def test_the_guests_address(guest: Guest) -> None:
    assert struct.pack("<II", guest.driver.get(0x2000), guest.driver.get(0x2004)) == struct.pack(
        "<Q", GUEST
    )
