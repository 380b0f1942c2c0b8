"""NBD: our client with our server, each with others' tools, and peers that lie."""

from __future__ import annotations

import errno
import json
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tandemu.host.disk import Content, DiskError, DiskUsageError, Image, open_image
from tandemu.host.disk.nbd import protocol as p
from tandemu.host.disk.nbd.client import NbdImage
from tandemu.host.disk.nbd.server import Server
from tandemu.host.disk.qcow2.create import Qcow2Options
from tests.host.disk.images import KIB, MIB, make_qcow2, needs_qemu, pattern, tool

SIZE = 8 * MIB


@contextmanager
def serving(image: Image, path: Path, name: str = "") -> Iterator[str]:
    """The URI of a server that offers *image* on a Unix socket at *path*."""
    server = Server(image, name=name, socket_path=str(path))
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server.address.uri
    finally:
        server.close()
        thread.join()


@contextmanager
def served(tmp_path: Path, name: str = "") -> Iterator[tuple[Image, str]]:
    path = make_qcow2(tmp_path / "disk.qcow2", SIZE, Qcow2Options(cluster_bytes=4096))
    with open_image(path) as image, serving(image, tmp_path / "socket", name) as uri:
        yield image, uri


def test_our_client_and_our_server(tmp_path: Path) -> None:
    with served(tmp_path) as (below, uri), open_image(uri) as image:
        assert (image.size_bytes, image.read_only) == (SIZE, False)
        data = bytearray(SIZE)
        random = Random(1)
        for _ in range(200):
            offset = random.randrange(SIZE)  # NBD knows no sectors
            length = min(random.choice((1, 512, 5000, 200 * KIB)), SIZE - offset)
            new = random.randbytes(length)
            image.writev(offset, [memoryview(new)[:100], memoryview(new)[100:]])
            data[offset : offset + length] = new
        image.write_zeroes(MIB, MIB)
        data[MIB : 2 * MIB] = bytes(MIB)
        image.discard(3 * MIB, MIB)
        data[3 * MIB : 4 * MIB] = bytes(MIB)
        image.flush()
        assert image.read(0, SIZE) == data
        assert below.read(0, SIZE) == data
        zero = sum(one.length for one in image.extents(0, SIZE) if one.content is Content.ZERO)
        assert zero >= 2 * MIB
        assert sum(one.length for one in image.extents(0, SIZE)) == SIZE
        with pytest.raises(DiskError, match="outside the image"):
            image.read(SIZE, 512)


def test_many_threads_share_a_connection(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    with served(tmp_path) as (_, uri), open_image(uri) as image:

        def work(own: int) -> None:
            try:
                for turn in range(50):
                    data = bytes([own + 1, turn]) * 2048
                    image.write(own * MIB + turn * 4096, data)
                    assert image.read(own * MIB + turn * 4096, 4096) == data
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(own,)) for own in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_an_image_can_stand_on_a_server(tmp_path: Path) -> None:
    with served(tmp_path, "ba se") as (below, uri):
        below.write(0, b"below" * 1000 + bytes(120))
        top = make_qcow2(tmp_path / "top", SIZE, Qcow2Options(backing=uri, backing_format="raw"))
        with open_image(top) as image:
            assert image.read(0, 5000) == b"below" * 1000
            image.write(0, b"above" + bytes(507))
        assert below.read(0, 5) == b"below"


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with served(tmp_path, "right") as (_, uri):
        with pytest.raises(DiskError, match="no export 'wrong'"):
            open_image(uri.replace("right", "wrong"))
        with pytest.raises(DiskUsageError, match="raw disk"):
            open_image(uri, "qcow2")
        with pytest.raises(DiskError, match="cannot listen"):
            Server(NbdImage(p.parse_uri(uri)), socket_path=str(tmp_path / "socket"))
    with pytest.raises(DiskError, match="cannot connect"):
        open_image(uri)
    for bad in ("nbd://", "nbd+unix:///x", "nbd://h:99999/", "nbd://h/?a=b", "nbd://u@h/"):
        with pytest.raises(DiskUsageError):
            open_image(bad)
    path = make_qcow2(tmp_path / "ro", MIB)
    with (
        open_image(path, read_only=True) as image,
        serving(image, tmp_path / "socket") as uri,
    ):
        with pytest.raises(DiskError, match="reading only") as caught:
            open_image(uri)
        assert caught.value.errno == errno.EROFS
        with open_image(uri, read_only=True) as client:
            assert client.read(0, 512) == bytes(512)


def test_errors_come_through(tmp_path: Path) -> None:
    with served(tmp_path) as (below, uri), open_image(uri) as image:
        below.read_only = True
        with pytest.raises(DiskError) as caught:
            image.write(0, b"x" * 512)
        assert caught.value.errno == errno.EPERM
        assert image.read(0, 512) == bytes(512)


def _talk(path: Path, *pieces: bytes) -> bytes:
    """Send bytes to a server; what it answers until it closes or says nothing more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(5)
        peer.connect(str(path))
        answer = bytearray(peer.recv(18))
        try:
            for piece in pieces:
                peer.sendall(piece)
            peer.shutdown(socket.SHUT_WR)
            while part := peer.recv(65536):
                answer += part
        except (ConnectionError, TimeoutError):
            pass
        return bytes(answer)


def option(kind: int, data: bytes, length: int | None = None) -> bytes:
    return p.OPTION.pack(p.OPTION_MAGIC, kind, len(data) if length is None else length) + data


def request(command: int, offset: int, length: int, flags: int = 0) -> bytes:
    return p.REQUEST.pack(p.REQUEST_MAGIC, flags, command, 7, offset, length)


FLAGS = struct.pack(">I", 3)
GO = option(p.OPT_GO, struct.pack(">IH", 0, 0))
HOSTILE = [
    [b"\xff" * 4],
    [FLAGS, b"x" * 100],
    [FLAGS, option(p.OPT_GO, b"", 1 << 31)],
    [FLAGS, option(p.OPT_GO, b"\xff" * 8)],
    [FLAGS, option(p.OPT_GO, struct.pack(">IH", 1 << 30, 0))],
    [FLAGS, option(p.OPT_SET_META, struct.pack(">II", 0, 1 << 30))],
    [FLAGS, option(p.OPT_LIST, b"data"), option(p.OPT_STRUCTURED_REPLY, b"x")],
    [FLAGS, *[option(99, b"")] * 40],
    [FLAGS, GO, b"\0" * 28],
    [FLAGS, GO, request(p.CMD_WRITE, 0, 1 << 31)],
    [FLAGS, GO, request(p.CMD_WRITE, 0, 4096), b"too little"],
    [FLAGS, GO, request(p.CMD_READ, 0, 1 << 31)],
    [FLAGS, GO, request(p.CMD_READ, (1 << 64) - 512, 512)],
    [FLAGS, GO, request(p.CMD_READ, SIZE, 512), request(p.CMD_READ, 0, 0)],
    [FLAGS, GO, request(p.CMD_FLUSH, 1, 1), request(99, 0, 512), request(p.CMD_READ, 0, 9, 0xFFFF)],
    [FLAGS, GO, request(p.CMD_BLOCK_STATUS, 0, 512)],
    [FLAGS, GO, *[request(p.CMD_READ, 0, 1 << 20)] * 8],
]


@pytest.mark.parametrize("pieces", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_client_harms_nobody(tmp_path: Path, pieces: list[bytes]) -> None:
    with served(tmp_path) as (below, uri):
        below.write(0, b"safe" * 128)
        _talk(tmp_path / "socket", *pieces)
        with open_image(uri) as image:
            assert image.read(0, 512) == b"safe" * 128


def test_random_requests_harm_nobody(tmp_path: Path) -> None:
    random = Random(3)
    with served(tmp_path) as (_, uri):
        for _ in range(60):
            pieces = [FLAGS, GO] if random.random() < 0.7 else [FLAGS]
            for _ in range(5):
                chance = random.random()
                if chance < 0.3:
                    pieces.append(random.randbytes(random.randrange(200)))
                elif chance < 0.6:
                    data = random.randbytes(random.randrange(40))
                    pieces.append(option(random.randrange(12), data))
                else:
                    place = random.choice((0, SIZE - 512, SIZE, random.getrandbits(64)))
                    length = random.choice((0, 512, 1 << 20, random.getrandbits(32)))
                    pieces.append(
                        request(random.randrange(10), place, length, random.getrandbits(5))
                    )
            _talk(tmp_path / "socket", *pieces)
        with open_image(uri) as image:
            image.read(0, 512)


def _liar(path: Path, answer: Callable[[bytes], bytes]) -> threading.Thread:
    """A server that agrees to all and answers each request as *answer* says."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)

    def work() -> None:
        with listener, listener.accept()[0] as peer:
            peer.settimeout(5)
            peer.sendall(struct.pack(">QQH", p.INIT_MAGIC, p.OPTION_MAGIC, 3))
            p.receive(peer, 4)
            try:
                while True:
                    _, kind, length = p.OPTION.unpack(p.receive(peer, p.OPTION.size))
                    p.receive(peer, length)

                    def reply(what: int, data: bytes = b"", kind: int = kind) -> None:
                        head = p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, kind, what, len(data))
                        peer.sendall(head + data)

                    if kind == p.OPT_SET_META:
                        reply(p.REP_META, struct.pack(">I", 5) + p.ALLOCATION)
                    if kind == p.OPT_GO:
                        reply(p.REP_INFO, struct.pack(">HQH", 0, SIZE, 13 | 32 | 64))
                    reply(p.REP_ACK)
                    if kind == p.OPT_GO:
                        break
                while True:
                    peer.sendall(answer(p.receive(peer, p.REQUEST.size)))
            except OSError:
                pass

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def chunk(kind: int, data: bytes, *, flags: int = 1, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return p.CHUNK.pack(p.STRUCTURED_MAGIC, flags, kind, 0, size) + data


LIES = [
    b"\0" * 40,
    chunk(p.CHUNK_NONE, b""),
    chunk(p.CHUNK_DATA, struct.pack(">Q", 512) + bytes(512)),
    chunk(p.CHUNK_DATA, struct.pack(">Q", 0) + bytes(1024)),
    chunk(p.CHUNK_DATA, struct.pack(">Q", 0) + bytes(100)),
    chunk(p.CHUNK_DATA, b"", length=(1 << 32) - 1),
    chunk(p.CHUNK_HOLE, struct.pack(">QI", 0, 1 << 31)),
    chunk(p.CHUNK_HOLE, struct.pack(">QI", 0, 512), flags=0) * 2,
    chunk(p.CHUNK_STATUS, struct.pack(">III", 5, 512, 0)),
    chunk(77, b"abc"),
    p.CHUNK.pack(p.STRUCTURED_MAGIC, 1, p.CHUNK_NONE, 999, 0),
    p.SIMPLE_REPLY.pack(p.SIMPLE_MAGIC, 0, 0) + bytes(512),
    b"",
]


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_a_server_that_lies_is_left(tmp_path: Path, lie: bytes) -> None:
    def answer(_: bytes) -> bytes:
        if not lie:
            raise OSError
        return lie

    thread = _liar(tmp_path / "socket", answer)
    with open_image(f"nbd+unix:///?socket={tmp_path}/socket") as image:
        with pytest.raises(DiskError, match="the connection is lost"):
            image.read(0, 512)
        with pytest.raises(DiskError, match="the connection is lost"):
            image.write(0, bytes(512))
    thread.join()


# ---- others' tools ---------------------------------------------------------------------------


@pytest.mark.guest
@needs_qemu
def test_qemus_tools_use_our_server(tmp_path: Path) -> None:
    data = pattern(SIZE)
    raw = tmp_path / "disk.raw"
    raw.write_bytes(data)
    with served(tmp_path) as (below, uri):
        tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw, uri)
        tool("qemu-img", "compare", raw, uri)
        assert below.read(0, SIZE) == data
        shown = json.loads(tool("qemu-img", "map", "--output=json", uri))
        assert any(one["zero"] for one in shown)
        tool("qemu-io", "-f", "raw", "-c", "write -P 5 1M 64k", "-c", "discard 2M 64k",
             "-c", "write -z 3M 64k", "-c", "flush", "-c", "read -P 5 1M 64k", uri)  # fmt: skip
        assert below.read(MIB, 64 * KIB) == b"\5" * 64 * KIB
        assert below.read(3 * MIB, 64 * KIB) == bytes(64 * KIB)


@pytest.mark.guest
@needs_qemu
def test_our_client_uses_qemus_server(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk.qcow2", SIZE)
    sock = tmp_path / "socket"
    server = subprocess.Popen(["qemu-nbd", "-k", sock, "-t", "-x", "disk", "-f", "qcow2", path,
                               "--fork", "--pid-file", tmp_path / "pid"])  # fmt: skip
    assert server.wait() == 0
    data = pattern(SIZE)
    try:
        with open_image(f"nbd+unix:///disk?socket={sock}") as image:
            image.write(0, data)
            image.flush()
            assert image.read(0, SIZE) == data
            image.write_zeroes(0, MIB)
            assert image.read(0, MIB) == bytes(MIB)
            assert any(one.content is Content.ZERO for one in image.extents(0, SIZE))
    finally:
        subprocess.run(["kill", (tmp_path / "pid").read_text().strip()], check=True)


@pytest.mark.guest
@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="needs nbdkit")
@pytest.mark.parametrize("options", [["memory", "8M"], ["--no-sr", "memory", "8M"], ["null", "8M"]])
def test_our_client_uses_nbdkit(tmp_path: Path, options: list[str]) -> None:
    sock = tmp_path / "socket"
    server = subprocess.Popen(["nbdkit", "-U", sock, "-f", "-P", tmp_path / "pid", *options])
    try:
        while not (tmp_path / "pid").exists():
            assert server.poll() is None
        with open_image(f"nbd+unix:///?socket={sock}") as image:
            assert image.size_bytes == SIZE
            image.write(MIB, b"x" * MIB)
            image.flush()
            held = options[-2] != "null"
            assert image.read(MIB, MIB) == (b"x" if held else b"\0") * MIB
            assert sum(one.length for one in image.extents(0, SIZE)) == SIZE
    finally:
        server.terminate()
        server.wait()


@pytest.mark.guest
@pytest.mark.skipif(shutil.which("nbdcopy") is None, reason="needs libnbd's tools")
def test_libnbds_tools_use_our_server(tmp_path: Path) -> None:
    data = pattern(SIZE)
    raw, out = tmp_path / "disk.raw", tmp_path / "out.raw"
    raw.write_bytes(data)
    with served(tmp_path, "disk") as (_, uri):
        tool("nbdcopy", "--flush", raw, uri)
        tool("nbdcopy", uri, out)
        assert out.read_bytes() == data
        shown = json.loads(tool("nbdinfo", "--json", uri))
        assert shown["exports"][0]["export-size"] == SIZE
        tool("nbdinfo", "--map", uri)
        assert "disk" in tool("nbdinfo", "--list", uri)
