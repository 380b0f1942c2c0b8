"""Networks that carry whole frames: a tap interface of the host's, a cable to another machine.

A cable is a pair of datagram Unix sockets with plain Ethernet frames, as QEMU's ``-netdev dgram``
has them, so machines of both kinds can be at its ends. A tap interface takes the card's header as
well (IFF_VNET_HDR), so large packets and open checksums pass as they are.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import struct

from tandemu.net.errors import NetError
from tandemu.net.link import HEADER_BYTES, PLAIN_HEADER, Offload, Port, scatter
from tandemu.net.packets import between

_TUN_DEVICE = "/dev/net/tun"
_TUNSETIFF, _TUNSETVNETHDRSZ, _TUNSETOFFLOAD = 0x400454CA, 0x400454D8, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_CHECKSUM, _TUN_TCP4, _TUN_TCP6 = 1, 2, 4
_FRAMES_A_TURN = 64
_PATIENCE_MS = 2
_TRIES = 10
_BUFFER_BYTES = 4 << 20
_LONGEST_PATH = 100


class FrameNetwork:
    """Frames through *descriptor*, which it owns; *headed*: with the card's header before each."""

    filters = True

    def __init__(self, descriptor: int, mtu: int, *, headed: bool) -> None:
        self._descriptor, self.mtu, self._headed = descriptor, mtu, headed
        self.offloads = Offload.ALL if headed else Offload(0)
        self._port: Port | None = None
        self._watching = False
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)
        self.dropped = 0

    def attach(self, port: Port) -> None:
        """The guest's driver is ready."""
        self._port = port
        self._offer(port.accepts)
        self._watch()

    def _offer(self, accepts: Offload) -> None:
        """What the guest takes, the other end may leave to it."""

    def _watch(self) -> None:
        if self._port is not None and not self._watching:
            self._watching = True
            self._port.watch(self._descriptor, self._receive)

    def _forget(self) -> None:
        if self._port is not None and self._watching:
            self._watching = False
            self._port.forget(self._descriptor)

    def detach(self) -> None:
        """The guest's driver is gone."""
        self._forget()
        self._port = None

    def send(self, views: list[memoryview], size: int) -> None:
        """Hand a frame on; one that the other end does not take soon is dropped."""
        frame = views if self._headed else between(views, HEADER_BYTES, size)
        for _ in range(2):
            try:
                os.writev(self._descriptor, frame)
                return
            except BlockingIOError:
                if not self._writable.poll(_PATIENCE_MS):
                    break
            except OSError as error:  # nobody is at the other end, or the interface is down
                if error.errno != errno.ENOBUFS or not self._writable.poll(_PATIENCE_MS):
                    break
        self.dropped += 1

    def flush(self) -> None:
        """Nothing waits."""

    def resume(self) -> None:
        """There are buffers again."""
        self._watch()

    def _receive(self) -> None:
        port = self._port
        assert port is not None
        for _ in range(_FRAMES_A_TURN):
            views = port.room()
            if views is None:
                self._forget()
                return
            place = views
            if not self._headed:
                size = sum(map(len, views))
                scatter(PLAIN_HEADER, views)
                place = between(views, HEADER_BYTES, size)
            try:
                done = os.readv(self._descriptor, place)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ECONNREFUSED):
                    self._forget()  # the interface is gone
                return
            if done >= 14 + (HEADER_BYTES if self._headed else 0):
                port.commit(done if self._headed else done + HEADER_BYTES)

    def statistics(self) -> dict[str, int]:
        """Counters by name. Any thread."""
        return {"frames_dropped": self.dropped}

    def close(self) -> None:
        """Give back what is the host's."""
        self.detach()
        os.close(self._descriptor)


class TapNetwork(FrameNetwork):
    """The tap interface *name* of the host's, which is there and ours, or we are root."""

    def __init__(self, name: str, mtu: int) -> None:
        try:
            descriptor = os.open(_TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise NetError(
                f"tap={name}: {_TUN_DEVICE} cannot be opened: {error.strerror}. Load the module "
                "tun, or use the network 'user', which needs neither"
            ) from error
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        try:
            request = struct.pack("16sH22x", name.encode("ascii"), flags)
            fcntl.ioctl(descriptor, _TUNSETIFF, request)
            fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("i", HEADER_BYTES))
        except OSError as error:
            os.close(descriptor)
            raise NetError(
                f"tap={name}: the interface cannot be had: {error.strerror}. Make it for this user "
                f"with: ip tuntap add {name} mode tap user USER, or run as root"
            ) from error
        super().__init__(descriptor, mtu, headed=True)

    def _offer(self, accepts: Offload) -> None:
        bits = 0
        if accepts & Offload.CHECKSUM:
            bits |= _TUN_CHECKSUM
            bits |= _TUN_TCP4 if accepts & Offload.TCP4 else 0
            bits |= _TUN_TCP6 if accepts & Offload.TCP6 else 0
        fcntl.ioctl(self._descriptor, _TUNSETOFFLOAD, bits)

    def detach(self) -> None:
        """The guest's driver is gone: the host cuts and sums its packets itself again."""
        super().detach()
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._descriptor, _TUNSETOFFLOAD, 0)


class CableNetwork(FrameNetwork):
    """A cable: our end is a datagram Unix socket at *local*, the other one at *remote*.

    The other end may come later, go, and come again: frames for nobody are dropped.
    """

    def __init__(self, local: str, remote: str, mtu: int) -> None:
        for path in (local, remote):
            if not 1 <= len(os.fsencode(path)) <= _LONGEST_PATH:
                raise NetError(
                    f"a socket at {path!r}: must be a path of at most {_LONGEST_PATH} bytes"
                )
        self._local, self._remote = local, remote
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            _bind(self._socket, local)
        except OSError as error:
            self._socket.close()
            raise NetError(
                f"no socket can be made at {local}: {error.strerror}. If another machine has it, "
                "give this one a path of its own"
            ) from error
        self._out = _outgoing()
        super().__init__(self._socket.fileno(), mtu, headed=False)
        self._writable.unregister(self._descriptor)
        self._writable.register(self._out, select.POLLOUT)

    def send(self, views: list[memoryview], size: int) -> None:
        """Hand a frame on; it is dropped while nobody is at the other end."""
        frame = between(views, HEADER_BYTES, size)
        for _ in range(_TRIES):
            try:
                self._out.sendmsg(frame)
                return
            except BlockingIOError:
                # A socket holds few frames: wait a little, and take what comes meanwhile, for
                # the other end may wait for us just so.
                if not self._writable.poll(_PATIENCE_MS) and self._watching:
                    self._receive()
            except OSError as error:  # not connected yet, or to one that is gone
                if error.errno == errno.EMSGSIZE or not self._connect():
                    break
        self.dropped += 1

    def _connect(self) -> bool:
        try:
            self._out.connect(self._remote)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close and remove our end."""
        self.detach()
        self._socket.close()
        self._out.close()
        with contextlib.suppress(OSError):
            os.unlink(self._local)


def _outgoing() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return sock


def _bind(sock: socket.socket, path: str) -> None:
    """Bind *sock* to *path*, where one that nobody has open any more may be."""
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                sock.bind(path)
                return
        raise
