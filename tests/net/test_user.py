"""The user network between a guest made of frames and real sockets of the host's."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tandemu.net.errors import NetError
from tandemu.net.link import PLAIN_HEADER, Offload
from tandemu.net.packets import ICMP, TCP, ones_sum
from tandemu.net.policy import Policy, parse_rule
from tandemu.net.user import Plan, UserNetwork
from tandemu.net.user.dns import learn_answers
from tandemu.net.user.plan import parse_forward, read_resolver
from tests.net.guest import (
    ACK,
    ADDRESS,
    FIN,
    MAC,
    NAMES,
    ROUTER,
    ROUTER_MAC,
    RST,
    SYN,
    Connection,
    Guest,
)

PLAN = Plan(host_loopback=True)
COOKIE = bytes.fromhex("63825363")


@pytest.fixture(params=[Offload.ALL, Offload(0)], ids=["offloads", "plain"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    guest = Guest(UserNetwork(PLAN), request.param)
    yield guest
    guest.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def connected(
    guest: Guest, server: socket.socket, own: int = 1000
) -> tuple[Connection, socket.socket]:
    connection = Connection(guest, ROUTER, server.getsockname()[1], own)
    assert connection.open().flags == SYN | ACK
    program, _ = server.accept()
    program.settimeout(30)
    return connection, program


def test_a_stream_both_ways_and_its_end(guest: Guest, server: socket.socket) -> None:
    connection, program = connected(guest, server)
    connection.send(b"from the guest")
    assert program.recv(100) == b"from the guest"
    assert guest.get_tcp().acknowledged == connection.sequence
    content = os.urandom(300_000)
    program.sendall(content)
    assert connection.receive(len(content)) == content
    program.shutdown(socket.SHUT_WR)
    last = guest.get_tcp()
    assert last.flags & FIN
    connection.expected += 1
    connection.emit(ACK | FIN)
    connection.sequence += 1
    assert program.recv(10) == b""
    assert guest.get_tcp().acknowledged == connection.sequence
    assert not guest.network.statistics()["connections_open"]
    program.close()


def test_checksums_are_right(server: socket.socket) -> None:
    guest = Guest(UserNetwork(PLAN), Offload(0))
    connection, program = connected(guest, server)
    program.sendall(b"odd")
    while True:
        frame = guest.get()
        if frame[23] == TCP and frame.endswith(b"odd"):
            break
    length = len(frame) - 34
    pseudo = frame[26:34] + struct.pack(">HH", TCP, length)
    assert ones_sum(pseudo + frame[34:] + b"\0") == 0xFFFF
    assert connection.expected
    program.close()
    guest.close()


def test_a_port_that_nobody_listens_at(guest: Guest, server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    answer = Connection(guest, ROUTER, port).open()
    assert answer.flags == RST | ACK and answer.acknowledged == 5001
    assert not guest.network.statistics()["connections_open"]


def test_what_belongs_to_no_connection_is_reset(guest: Guest) -> None:
    guest.send_tcp(ROUTER, 7, 9, 100, 55, ACK)
    answer = guest.get_tcp()
    assert (answer.flags, answer.sequence) == (RST, 55)
    guest.send_tcp(ROUTER, 7, 9, 100, 0, FIN, b"xyz")
    answer = guest.get_tcp()
    assert (answer.flags, answer.acknowledged) == (RST | ACK, 104)
    guest.send_tcp(ROUTER, 7, 9, 100, 0, RST)
    assert not guest.frames


def test_resets_go_both_ways(guest: Guest, server: socket.socket) -> None:
    connection, program = connected(guest, server)
    connection.emit(RST)
    with pytest.raises(ConnectionResetError):
        program.recv(1)
    connection, program = connected(guest, server, 1001)
    program.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    program.close()
    assert guest.get_tcp().flags & RST
    assert not guest.network.statistics()["connections_open"]


def test_neither_side_has_to_hold_more_than_the_window(server: socket.socket) -> None:
    guest = Guest(UserNetwork(PLAN))
    connection, program = connected(guest, server)
    sent = 0
    window = 1 << 20
    while window:  # the program takes nothing
        size = min(window, 60_000)
        connection.send(bytes(size))
        sent += size
        answer = guest.get_tcp()
        assert answer.acknowledged == 5001 + sent & 0xFFFFFFFF
        window = answer.window << 5
    connection.emit(ACK, b"more than was allowed")
    assert guest.get_tcp().acknowledged == 5001 + sent
    received = 0
    while received < sent:
        received += len(program.recv(1 << 20))
        while guest.turn(0):
            pass
    assert received == sent
    assert guest.get_tcp().window, "the guest hears that there is room"
    program.sendall(bytes(3_000_000))  # now the guest takes nothing: its window of 65535 << 7
    for _ in range(100):
        guest.turn(0)
    flight = sum(len(frame) - 66 for frame in guest.frames)
    assert flight <= 3 << 20
    program.close()
    guest.close()


def test_a_guest_without_buffers_is_sent_nothing_until_it_has(server: socket.socket) -> None:
    guest = Guest(UserNetwork(PLAN))
    connection, program = connected(guest, server)
    guest.buffers = 0
    program.sendall(b"x" * 100_000)
    while guest.turn(0.05):
        pass
    assert not guest.frames
    guest.buffers = 1 << 30
    guest.network.resume()
    assert connection.receive(100_000) == b"x" * 100_000
    program.close()
    guest.close()


def test_what_the_guest_loses_is_sent_again(guest: Guest, server: socket.socket) -> None:
    connection, program = connected(guest, server)
    program.sendall(b"lost")
    first = guest.get_tcp()
    assert first.data == b"lost"
    again = guest.get_tcp()  # not acknowledged
    assert (again.sequence, again.data) == (first.sequence, b"lost")
    connection.expected += 4
    connection.emit(ACK)
    assert guest.network.statistics()["retransmissions"] == 1
    program.sendall(b"abc")
    assert connection.receive(3) == b"abc"
    program.close()


def test_data_that_comes_twice_or_early(guest: Guest, server: socket.socket) -> None:
    connection, program = connected(guest, server)
    connection.send(b"12345")
    guest.get_tcp()
    connection.sequence -= 3
    connection.send(b"345678")
    assert guest.get_tcp().acknowledged == connection.sequence
    connection.sequence += 10
    connection.emit(ACK, b"early")
    connection.sequence -= 10
    assert guest.get_tcp().acknowledged == connection.sequence
    connection.send(b"9")
    found = b""
    while len(found) < 9:
        found += program.recv(100)
    assert found == b"123456789"
    program.close()


def test_thousands_of_connections_leave_nothing_behind(server: socket.socket) -> None:
    guest = Guest(UserNetwork(PLAN))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(2_000):
        connection, program = connected(guest, server, 1024 + number)
        program.close()
        assert guest.get_tcp().flags & FIN
        connection.expected += 1
        connection.emit(ACK | FIN)
        guest.get_tcp()
    assert len(os.listdir("/proc/self/fd")) == before
    assert guest.network.statistics()["connections"] == 2_000
    assert not guest.network.hub.connections  # type: ignore[attr-defined]
    guest.close()


def test_a_flood_of_connections_is_bounded() -> None:
    guest = Guest(UserNetwork(PLAN))
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        for number in range(5000):
            connection = Connection(guest, ROUTER, server.getsockname()[1], 1 + number)
            connection.emit(SYN)
            guest.frames.clear()
        assert guest.network.statistics()["connections_open"] <= 512
    guest.close()


def test_datagrams(guest: Guest) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.bind(("127.0.0.1", 0))
        program.settimeout(30)
        port = program.getsockname()[1]
        guest.send_udp(ROUTER, 5000, port, b"question")
        data, peer = program.recvfrom(100)
        assert data == b"question"
        program.sendto(b"answer", peer)
        assert guest.get_udp() == (port, 5000, b"answer")
        guest.send_udp(ROUTER, 5000, port, b"")
        assert program.recv(10) == b""
        guest.send_udp(ROUTER, 5000, port, b"x" * 60_000)
        assert len(program.recv(1 << 16)) == 60_000
    guest.send_udp(ROUTER, 5000, port, b"nobody")
    message = guest.get_packet(ICMP)
    assert message[:2] == b"\3\3" and ones_sum(message + bytes(len(message) % 2)) == 0xFFFF


def test_flows_are_bounded(guest: Guest) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.bind(("127.0.0.1", 0))
        before = len(os.listdir("/proc/self/fd"))
        for number in range(3000):
            guest.send_udp(ROUTER, 1 + number, program.getsockname()[1], b"x")
        assert len(os.listdir("/proc/self/fd")) - before <= 1024


def test_echo(guest: Guest) -> None:
    answer = guest.ping(ROUTER)
    assert answer[0] == 0 and answer[4:] == bytes((1, 2, 0, 1)) + b"payload"
    assert ones_sum(answer + b"\0") == 0xFFFF


def test_arp_and_dhcp(guest: Guest) -> None:
    request = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + MAC + ADDRESS + bytes(6)
    head = PLAIN_HEADER + b"\xff" * 6 + MAC + b"\x08\x06"
    guest.send(head + request + ROUTER)
    answer = guest.get()
    assert answer[:12] == MAC + ROUTER_MAC and answer[20:22] == b"\0\2"
    assert answer[22:32] == ROUTER_MAC + ROUTER
    guest.send(head + request + ADDRESS)  # is my address anybody's?
    assert not guest.frames
    leased = []
    for kind, wanted in ((1, b""), (3, b"\x32\4" + ADDRESS), (3, b"\x32\4\1\2\3\4")):
        options = COOKIE + bytes((53, 1, kind)) + wanted + b"\xff"
        message = b"\1\1\6\0abcd" + bytes(20) + MAC + bytes(10 + 192) + options
        guest.send_udp(b"\xff" * 4, 68, 67, message)
        source, target, data = guest.get_udp()
        assert (source, target) == (67, 68) and data[4:8] == b"abcd"
        leased.append((data[242], data[16:20]))
        if kind == 1:
            assert b"\3\4" + ROUTER in data and b"\6\4" + NAMES in data
    assert leased == [(2, ADDRESS), (5, ADDRESS), (6, bytes(4))]


def test_forwards(guest: Guest) -> None:
    network = guest.network
    assert isinstance(network, UserNetwork)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forward = parse_forward(f"{port}-22")
    network.add_forward(forward)
    with socket.create_connection(("127.0.0.1", port)) as program:
        program.settimeout(30)
        call = guest.get_tcp()
        assert (call.flags, call.target) == (SYN, 22)
        connection = Connection(guest, ROUTER, call.source, 22)
        connection.expected = call.sequence + 1
        connection.emit(SYN | ACK, options=b"\x02\x04\x05\xb4")
        connection.sequence += 1
        assert guest.get_tcp().flags == ACK
        connection.send(b"SSH-2.0")
        assert program.recv(100) == b"SSH-2.0"
        program.sendall(b"hello")
        assert connection.receive(5) == b"hello"
        with pytest.raises(NetError, match="already"):
            network.add_forward(forward)
        with pytest.raises(NetError, match="Take another port"):
            network.add_forward(parse_forward(f"{port}-23"))
        network.remove_forward(forward)
        with pytest.raises(NetError, match="not forwarded"):
            network.remove_forward(forward)
    datagrams = parse_forward(f"udp:{port}-53")
    network.add_forward(datagrams)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.settimeout(30)
        program.sendto(b"query", ("127.0.0.1", port))
        source, target, data = guest.get_udp()
        assert (target, data) == (53, b"query")
        guest.send_udp(ROUTER, 53, source, b"answer")
        assert program.recv(100) == b"answer"


def test_forwards_that_cannot_be() -> None:
    for text, said in (
        ("22", "must be"),
        ("a-b", "must be"),
        ("0-22", "from 1 to 65535"),
        ("1..5-1..4", "as many ports"),
        ("1.2.3:80-80", "no address"),
        ("sctp:80-80", "must be"),
    ):
        with pytest.raises(NetError, match=said):
            parse_forward(text)
    assert str(parse_forward("udp:[::1]:53-10.0.2.15:53")) == "udp:[::1]:53-10.0.2.15:53"
    assert parse_forward("8000..8010-80..90").count == 11


def test_the_hosts_own_addresses_are_not_reachable() -> None:
    network = UserNetwork()
    guest = Guest(network)
    for target in ("127.0.0.1", "10.0.2.2", "169.254.169.254", "0.0.0.0", "224.0.0.1"):
        packed = socket.inet_aton(target)
        guest.frames.clear()
        Connection(guest, packed, 22).emit(SYN)
        assert guest.get_tcp().flags == RST | ACK, target
        if packed[0] < 224:
            guest.send_udp(packed, 5, 6, b"x")
            assert guest.get_packet(ICMP)[:2] == b"\3\x0d", target
    assert len(network.policy.log) == 9
    guest.close()


@pytest.mark.parametrize(
    ("rules", "reached", "refused"),
    [
        (
            ["allow=10.0.0.0/8:443", "deny=*"],
            [("10.1.1.1", 443)],
            [("10.1.1.1", 80), ("1.1.1.1", 443)],
        ),
        (["deny=10.0.0.0/8"], [("1.1.1.1", 1)], [("10.1.1.1", 443)]),
        (
            ["allow=[fd00::/8]:80..90", "deny=*"],
            [("fd00::1", 85)],
            [("fd00::1", 91), ("1.1.1.1", 1)],
        ),
        (
            [],
            [("1.1.1.1", 1)],
            [("::1", 1), ("::ffff:127.0.0.1", 1), ("fe80::1", 1), ("64:ff9b::7f00:1", 1)],
        ),
    ],
)
def test_rules(
    rules: list[str], reached: list[tuple[str, int]], refused: list[tuple[str, int]]
) -> None:
    policy = Policy(tuple(parse_rule(*rule.split("=")) for rule in rules))  # type: ignore[arg-type]
    for expected, places in ((False, reached), (True, refused)):
        for address, port in places:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            packed = socket.inet_pton(family, address)
            assert policy.refuses(packed, port, "it") is expected, (address, port)
    assert policy.refused == len(refused)


def test_rules_by_name() -> None:
    policy = Policy((parse_rule("allow", "*.debian.org:443"), parse_rule("deny", "*")))
    assert policy.refuses(bytes((9, 9, 9, 9)), 443, "it")
    assert policy.refuses_name("example.org") and not policy.refuses_name("deb.debian.org")
    question = b"\3deb\6debian\3org\0\0\1\0\1"
    answer = (
        b"\0\1\x81\x80\0\1\0\2\0\0\0\0" + question
        + b"\xc0\x0c\0\5\0\1\0\0\0\x10\0\7\4edge\xc0\x10"
        + b"\4edge\xc0\x10\0\1\0\1\0\0\0\x10\0\4\x09\x09\x09\x09"
    )  # fmt: skip
    learn_answers(answer, policy.learn)
    assert not policy.refuses(bytes((9, 9, 9, 9)), 443, "it")
    assert policy.refuses(bytes((9, 9, 9, 9)), 80, "it")
    for cut in range(len(answer)):
        learn_answers(answer[:cut], policy.learn)


def test_rules_that_cannot_be() -> None:
    for text in ("a b", "x:99999", "x:5..3", "[zz]", "1.2.3.4/99", "", ":80"):
        with pytest.raises(NetError):
            parse_rule("allow", text)


def test_resolver(tmp_path: object) -> None:
    path = f"{tmp_path}/resolv.conf"
    with open(path, "w", encoding="ascii") as file:
        file.write("# comment\nsearch a.example b.example\nnameserver bad\nnameserver 9.9.9.9\n")
    assert read_resolver(path).server == "9.9.9.9"
    assert read_resolver(path).domains == ("a.example", "b.example")
    assert read_resolver("/nonexistent").server == "127.0.0.1"


def test_packets_that_cannot_be(server: socket.socket) -> None:
    """Mutated packets of every kind: nothing is raised, and what is held stays bounded."""
    guest = Guest(UserNetwork(PLAN))
    port = server.getsockname()[1]
    seeds: list[bytes] = []
    original = guest.network.send

    def record(views: list[memoryview], size: int) -> None:
        seeds.append(b"".join(views))
        original(views, size)

    guest.network.send = record  # type: ignore[method-assign]
    connection = Connection(guest, ROUTER, port)
    connection.open()
    connection.send(b"data")
    guest.ping(ROUTER)
    guest.send_udp(b"\xff" * 4, 68, 67, b"\1\1\6\0" + bytes(232) + COOKIE + b"\x35\1\1\xff")
    guest.send_udp(NAMES, 68, 53, b"\0\1\1\0\0\1" + bytes(6) + b"\3deb\0\0\1\0\1")
    six = bytes.fromhex("ff020000000000000000000000000002")
    guest.send_udp(six, 546, 547, b"\1abc\0\1\0\4abcd\0\3\0\x0c" + bytes(12))
    guest.send(
        PLAIN_HEADER + b"\xff" * 6 + MAC + b"\x08\x06"
        + struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + MAC + ADDRESS + bytes(6) + ROUTER
    )  # fmt: skip
    for kind in (133, 135):
        message = bytes((kind, 0, 0, 0, 0, 0, 0, 0)) + six
        envelope = guest.envelope(six, 58)
        guest.send(envelope.frame(message, 2, b""))
    guest.network.send = original  # type: ignore[method-assign]
    chance = random.Random(7)
    # Addresses and ports stay: a mutated packet must not go to anybody.
    for number in range(30_000):
        frame = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(24, len(frame))
            if not 42 <= place < 46 and not 50 <= place < 66:
                frame[place] = chance.randrange(256)
        if chance.random() < 0.3:
            del frame[chance.randrange(26, len(frame)) :]
        cuts = sorted(chance.sample(range(1, len(frame)), 2)) if number % 3 == 0 else []
        guest.send(bytes(frame), *cuts)
        guest.frames.clear()
        if number % 100 == 0:
            guest.turn(0)
            with contextlib.suppress(BlockingIOError):
                server.setblocking(False)
                server.accept()[0].close()
    assert guest.network.statistics()["connections_open"] <= 4096
    guest.close()
