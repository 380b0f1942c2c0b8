"""Cables between machines, and tap interfaces in a network namespace of the test's own."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tandemu.net.errors import NetError
from tandemu.net.frames import CableNetwork, TapNetwork
from tandemu.net.link import HEADER_BYTES, PLAIN_HEADER
from tests.net.guest import MAC, Guest

_CLONE_NEWNET = 0x4000_0000
DATA = b"\xff" * 6 + MAC + b"\x12\x34" + bytes(range(100))


def test_a_cable(tmp_path: Path) -> None:
    ends = [str(tmp_path / name) for name in "ab"]
    first = Guest(CableNetwork(*ends, 1500))
    first.send(PLAIN_HEADER + DATA)  # nobody is there yet
    assert first.network.statistics()["frames_dropped"] == 1
    second = Guest(CableNetwork(*reversed(ends), 1500))
    first.send(PLAIN_HEADER + DATA, 5, 20)
    assert second.get() == DATA
    second.send(PLAIN_HEADER + DATA[::-1])
    assert first.get() == DATA[::-1]
    with pytest.raises(NetError, match="no socket can be made"):
        CableNetwork(*ends, 1500)
    second.close()
    first.send(PLAIN_HEADER + DATA)
    second = Guest(CableNetwork(*reversed(ends), 1500))
    first.send(PLAIN_HEADER + DATA)
    assert second.get() == DATA
    second.buffers = 0
    for _ in range(2000):  # more than the sockets hold: some are dropped, none waits for ever
        first.send(PLAIN_HEADER + bytes(2000))
        if first.network.statistics()["frames_dropped"] > 5:
            break
    second.turn()
    second.buffers = 3
    second.network.resume()
    for _ in range(3):
        assert second.get()
    first.close()
    second.close()
    assert not os.listdir(tmp_path)


def test_a_cable_takes_the_place_of_one_that_is_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(path)
    guest = Guest(CableNetwork(path, str(tmp_path / "b"), 1500))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.connect(path)
        for size in (0, 5, 13):
            other.send(bytes(size))
        other.send(DATA)
    assert guest.get() == DATA
    guest.close()
    with pytest.raises(NetError, match="at most"):
        CableNetwork("x" * 200, "y", 1500)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NetError, match="no socket"):
        CableNetwork(str(tmp_path / "file"), "y", 1500)
    assert (tmp_path / "file").read_text() == "mine"


def in_own_namespace(action: Callable[[], None]) -> None:
    """Run *action* on a thread with a network namespace of its own."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                pytest.skip("no network namespace can be made here")
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/net/tun") or shutil.which("ip") is None,
    reason="needs root, /dev/net/tun and ip",
)
def test_tap() -> None:
    def check() -> None:
        network = TapNetwork("tap0", 1500)
        for command in ("addr add 10.9.9.1/24 dev tap0", "link set tap0 up"):
            subprocess.run(["ip", *command.split()], check=True)
        guest = Guest(network)
        program = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        program.bind(("10.9.9.1", 77))
        program.settimeout(30)
        request = bytes.fromhex("0001080006040001") + MAC + bytes((10, 9, 9, 2)) + bytes(6)
        guest.send(PLAIN_HEADER + b"\xff" * 6 + MAC + b"\x08\x06" + request + bytes((10, 9, 9, 1)))
        while (answer := guest.get())[12:14] != b"\x08\x06" or answer[20:22] != b"\0\2":
            pass
        program.sendto(b"to the guest", ("10.9.9.2", 5))
        while True:
            while not guest.frames:
                guest.turn()
            frame = guest.frames.popleft()
            if frame[HEADER_BYTES + 12 : HEADER_BYTES + 14] == b"\x08\0":
                break
            if frame[HEADER_BYTES + 12 : HEADER_BYTES + 14] == b"\x08\x06":
                reply = bytes.fromhex("0001080006040002") + MAC + bytes((10, 9, 9, 2))
                head = PLAIN_HEADER + frame[18:24] + MAC + b"\x08\x06"
                guest.send(head + reply + frame[18:24] + bytes((10, 9, 9, 1)))
        assert frame.endswith(b"to the guest")
        assert frame[0] == 1, "the host leaves the checksum to us"
        with pytest.raises(NetError, match="cannot be had"):
            TapNetwork("lo", 1500)
        program.close()
        guest.close()

    in_own_namespace(check)
