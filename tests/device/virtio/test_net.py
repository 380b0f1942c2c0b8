"""The network card between a driver of ours and a network that only listens."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tandemu.device.registers import DeviceError
from tandemu.device.virtio.features import FEATURES_OK, NEEDS_RESET
from tandemu.device.virtio.net import CONTROL, RECEIVE, TRANSMIT, NetworkCard
from tandemu.net.link import HEADER_BYTES, PLAIN_HEADER, Offload, Port
from tandemu.net.traffic import Limiter, Traffic
from tests.device.virtio.driver import SPLIT, VARIANTS, Driver, make_memory

MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
CONTROL_RX, MTU, CONTROL_QUEUE = 1 << 18, 1 << 3, 1 << 17


class Echo:
    """A network that sends each frame back."""

    offloads = Offload.ALL
    mtu = 9000
    filters = True

    def __init__(self) -> None:
        self.port: Port | None = None
        self.kept: list[bytes] = []
        self.sent: list[bytes] = []

    def attach(self, port: Port) -> None:
        self.port = port

    def detach(self) -> None:
        self.port = None
        self.kept.clear()

    def send(self, views: list[memoryview], size: int) -> None:
        frame = b"".join(views)
        assert len(frame) == size
        self.sent.append(frame)
        self.kept.append(frame)

    def flush(self) -> None:
        self.resume()

    def resume(self) -> None:
        assert self.port is not None
        while self.kept and (views := self.port.room()) is not None:
            frame = self.kept.pop(0)
            views[0][: len(frame)] = frame
            self.port.commit(len(frame))

    def statistics(self) -> dict[str, int]:
        return {"echoed": len(self.sent)}

    def close(self) -> None: ...


class Bench:
    """A card with a driver."""

    def __init__(self, features: int | None, limit: int = 0) -> None:
        self.driver = Driver(make_memory())
        self.network = Echo()
        self.traffic = Traffic("net0", Limiter(limit, 1000 if limit else 0), Limiter())
        self.card = NetworkCard(self.driver.memory, self.network, MAC, self.traffic)
        self.driver.attach(self.card)
        wanted = None if features is None else features | self.card.features
        self.rings = self.driver.start(16, 16, 16, features=wanted)

    def send(self, frame: bytes) -> None:
        self.rings[TRANSMIT].add([self.driver.place(frame)])
        self.rings[TRANSMIT].kick()
        self.rings[TRANSMIT].wait()

    def control(self, *command: int, data: bytes = b"") -> int:
        (answer,) = self.rings[CONTROL].call([bytes(command), data or b"\0"], [1])
        return answer

    def close(self) -> None:
        self.card.close()
        self.traffic.close()


@pytest.fixture(params=list(VARIANTS))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(VARIANTS[request.param])
    yield bench
    bench.close()


def frame(target: bytes, data: bytes = b"data") -> bytes:
    return PLAIN_HEADER + target + MAC + b"\x12\x34" + data


def test_frames_there_and_back(bench: Bench) -> None:
    sent = frame(MAC, b"x" * 3000)
    bench.send(sent)
    assert bench.rings[RECEIVE].call([], [4096]) == sent
    assert bench.network.sent == [sent]
    counted = bench.card.statistics_of_requests()
    assert (counted["frames_sent"], counted["frames_received"]) == (1, 1)
    assert counted["bytes_sent"] == counted["bytes_received"] == len(sent) - HEADER_BYTES


def test_configuration(bench: Bench) -> None:
    configuration = struct.pack("<HHH", 1, 1, 9000)
    assert bench.card.configuration() == MAC + configuration
    bench.card.set_link(up=False)
    assert bench.card.configuration()[6] & 1 == 0
    bench.send(frame(MAC))
    assert not bench.network.sent
    bench.card.set_link(up=True)
    assert bench.card.configuration()[6] & 3 == 3  # up, and it is to announce itself
    assert bench.control(3, 0) == 0
    assert bench.card.configuration()[6] & 3 == 1
    bench.send(frame(MAC))
    assert bench.network.sent


def test_filters(bench: Bench) -> None:
    def passes(target: bytes, kind: bytes = b"\x12\x34\0\0") -> bool:
        before = bench.traffic.received_frames
        bench.send(PLAIN_HEADER + target + OTHER + kind)
        bench.card.at_rest(lambda: None)
        return bench.traffic.received_frames > before

    for _ in range(12):
        bench.rings[RECEIVE].add([], [bench.driver.room(256)])
    bench.rings[RECEIVE].kick()
    assert passes(OTHER)
    assert bench.control(0, 0, data=b"\0") == 0  # not promiscuous any more
    group = bytes.fromhex("333300000001")
    assert passes(MAC) and passes(b"\xff" * 6) and not passes(OTHER) and not passes(group)
    tables = struct.pack("<I", 1) + OTHER + struct.pack("<I", 1) + group
    assert bench.control(1, 0, data=tables) == 0
    assert passes(OTHER) and passes(group)
    assert bench.control(1, 1, data=bytes.fromhex("525400000009")) == 0
    assert not passes(MAC)
    assert not passes(OTHER, b"\x81\0\0\x07")
    assert bench.control(2, 0, data=b"\x07\0") == 0
    assert passes(OTHER, b"\x81\0\0\x07")
    for command, data in (
        ((0, 0), b"\2"), ((0, 9), b"\0"), ((1, 1), b"short"), ((1, 1), b"\1" + bytes(5)),
        ((1, 0), b"\xff\xff\xff\xff"), ((2, 0), b"\0\x10"), ((9, 9), b"\0"),
    ):  # fmt: skip
        assert bench.control(*command, data=data) == 1


def test_frames_that_cannot_be(bench: Bench) -> None:
    for size in (0, 5, HEADER_BYTES, HEADER_BYTES + 13, 70_000):
        bench.send(bytes(size))
    assert not bench.network.sent and bench.traffic.refused == 5
    bench.rings[RECEIVE].add([], [bench.driver.room(10)])  # no room for any frame
    bench.rings[RECEIVE].kick()
    bench.send(frame(MAC))
    assert bench.card.status & NEEDS_RESET


def test_a_limit_holds_frames_back_and_loses_none() -> None:
    bench = Bench(SPLIT, limit=100_000)
    for _ in range(5):
        bench.send(frame(MAC, bytes(1000)))
    assert len(bench.network.sent) == 5
    bench.close()


def test_features_that_go_together() -> None:
    bench = Bench(SPLIT)
    for features in (1 << 32 | CONTROL_RX, 1 << 32 | 1 << 11, 1 << 32 | 1 << 7):
        bench.driver.begin(features)
        assert not bench.driver.status & FEATURES_OK
    bench.driver.begin(1 << 32 | CONTROL_RX | CONTROL_QUEUE | MTU)
    assert bench.driver.status & FEATURES_OK
    bench.close()


def test_addresses_that_cannot_be() -> None:
    traffic = Traffic("net0", Limiter(), Limiter())
    for mac in (b"", b"\1" + bytes(5)):
        with pytest.raises(DeviceError, match="one station's"):
            NetworkCard(make_memory(), Echo(), mac, traffic)
    traffic.close()
