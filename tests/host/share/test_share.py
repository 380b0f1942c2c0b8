"""The FUSE server: every operation, both ways to keep owners, and guests that want out."""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tandemu.host.share import Caching, Share, ShareError, ShareSettings
from tandemu.host.share import protocol as fuse
from tandemu.host.share.owners import ATTRIBUTE, parse
from tandemu.host.share.protocol import Opcode
from tests.host.share.client import Client

ROOT = fuse.ROOT
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("not for guests")
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture(params=["host", "recorded"])
def client(request: pytest.FixtureRequest, folder: Path) -> Iterator[Client]:
    client = Client(folder, record_owners=request.param == "recorded")
    yield client
    client.close()


def fails(number: int, function: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        function(*arguments)
    assert caught.value.errno == number, os.strerror(caught.value.errno or 0)


def test_files(client: Client, folder: Path) -> None:
    node, handle = client.create(ROOT, "file", 0o640)
    assert client.write(handle, b"hello world") == 11
    assert client.write(handle, b"W", 6) == 1
    client.release(handle, os.O_RDWR)
    assert (folder / "file").read_bytes() == b"hello World"
    handle = client.open(client.lookup("file"))
    assert client.read(handle, 100, 6) == b"World"
    assert client.read(handle, 3) == b"hel"
    assert client.read(handle, 10, 100) == b""
    fails(errno.EBADF, client.write, handle, b"x")
    client.release(handle)
    fails(errno.EBADF, client.read, handle, 1)
    shown = client.stat(node)
    assert stat.S_IMODE(shown["mode"]) == 0o640 and shown["size"] == 11
    assert client.setattr(node, fuse.SET_SIZE, size=5)["size"] == 5
    times = client.setattr(node, fuse.SET_MTIME | fuse.SET_ATIME, mtime=10, mtime_ns=5, atime=3)
    assert (times["mtime"], times["mtime_ns"], times["atime"]) == (10, 5, 3)
    negative = client.setattr(node, fuse.SET_MTIME, mtime=(1 << 64) - 2)
    assert negative["mtime"] == (1 << 64) - 2
    assert stat.S_IMODE(client.setattr(node, fuse.SET_MODE, mode=0o444)["mode"]) == 0o444
    fails(errno.EEXIST, client.create, ROOT, "file", 0o644, os.O_EXCL)
    _, handle = client.create(ROOT, "file")  # it was there meanwhile
    assert client.read(handle, 5) == b"hello"


def test_directories(client: Client, folder: Path) -> None:
    node = client.mkdir(ROOT, "one")
    for number in range(200):
        client.release(client.create(node, f"file with a longer name {number}")[1])
    client.symlink(node, "link", "target")
    names = client.list(node)
    assert set(names) == {".", "..", "link", *os.listdir(folder / "one")}
    assert names["link"] == stat.S_IFLNK >> 12
    numbers = client.list(node, plus=True)
    assert numbers["."] == 0 and len(numbers) == 203
    assert client.stat(numbers["link"])["mode"] >> 12 == stat.S_IFLNK >> 12
    fails(errno.ENOTEMPTY, client.call, Opcode.RMDIR, ROOT, b"one\0")
    for name in os.listdir(folder / "one"):
        client.call(Opcode.UNLINK, node, name.encode() + b"\0")
    client.call(Opcode.RMDIR, ROOT, b"one\0")
    assert not list(folder.iterdir())
    assert client.stat(node)["nlink"] == 0, "the guest still knows it"
    fails(errno.ENOENT, client.create, node, "late")


def test_links_and_renames(client: Client, folder: Path) -> None:
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    directory = client.mkdir(ROOT, "directory")
    node = client.lookup("a")
    body = fuse.LINK_IN.pack(node) + b"hard\0"
    linked, shown = client.entry(client.call(Opcode.LINK, directory, body))
    assert linked == node and shown["nlink"] == 2
    body = fuse.RENAME_IN.pack(directory) + b"a\0moved\0"
    client.call(Opcode.RENAME, ROOT, body)
    assert (folder / "directory" / "moved").read_text() == "a"
    exchange = fuse.RENAME2_IN.pack(ROOT, 2, 0) + b"moved\0b\0"
    client.call(Opcode.RENAME2, directory, exchange)
    assert (folder / "b").read_text() == "a"
    fails(
        *(errno.EEXIST, client.call, Opcode.RENAME2, ROOT),
        fuse.RENAME2_IN.pack(directory, 1, 0) + b"b\0hard\0",
    )
    fails(
        errno.EINVAL, client.call, Opcode.RENAME2, ROOT, fuse.RENAME2_IN.pack(1, 8, 0) + b"b\0c\0"
    )
    link = client.symlink(ROOT, "link", "/etc/passwd")
    assert client.call(Opcode.READLINK, link) == b"/etc/passwd"
    fails(errno.EINVAL, client.call, Opcode.READLINK, node)


def test_space(client: Client, folder: Path) -> None:
    _, handle = client.create(ROOT, "file")
    body = fuse.FALLOCATE_IN.pack(handle, 0, 1 << 16, 0, 0)
    client.call(Opcode.FALLOCATE, 1, body)
    assert (folder / "file").stat().st_size == 1 << 16
    client.write(handle, b"data", 1 << 20)
    seek = fuse.LSEEK_IN.pack(handle, 1 << 18, os.SEEK_DATA, 0)
    assert fuse.LSEEK_OUT.unpack(client.call(Opcode.LSEEK, 1, seek))[0] >= 1 << 18
    fails(errno.EINVAL, client.call, Opcode.LSEEK, 1, fuse.LSEEK_IN.pack(handle, 0, 0, 0))
    _, other = client.create(ROOT, "copy")
    body = fuse.COPY_IN.pack(handle, 1 << 20, 1, other, 2, 4, 0)
    assert fuse.WRITE_OUT.unpack(client.call(Opcode.COPY_FILE_RANGE, 1, body))[0] == 4
    assert (folder / "copy").read_bytes() == b"\0\0data"
    client.call(Opcode.FSYNC, 1, fuse.FSYNC_IN.pack(handle, 0, 0))
    client.call(Opcode.SYNCFS, 1, bytes(8))
    assert fuse.STATFS_OUT.unpack(client.call(Opcode.STATFS, 1))[0] > 0


def test_extended_attributes(client: Client, folder: Path) -> None:
    node = client.create(ROOT, "file")[0]

    def get(name: bytes, size: int = 100) -> bytes:
        return client.call(Opcode.GETXATTR, node, fuse.GETXATTR_IN.pack(size, 0) + name + b"\0")

    def put(name: bytes, value: bytes, flags: int = 0) -> None:
        head = fuse.SETXATTR_IN.pack(len(value), flags)
        client.call(Opcode.SETXATTR, node, head + name + b"\0" + value)

    put(b"user.colour", b"red\0green")
    put(b"security.capability", b"much")
    assert get(b"user.colour") == b"red\0green"
    assert fuse.GETXATTR_OUT.unpack(get(b"user.colour", 0)) == (9, 0)
    fails(errno.ERANGE, get, b"user.colour", 3)
    assert get(b"security.capability") == b"much"
    assert "security.capability" not in os.listxattr(folder / "file")
    listed = client.call(Opcode.LISTXATTR, node, fuse.GETXATTR_IN.pack(1000, 0))
    assert set(listed.split(b"\0")) == {b"", b"user.colour", b"security.capability"}
    fails(errno.ENODATA, get, b"user.none")
    fails(errno.EOPNOTSUPP, get, b"system.posix_acl_access")
    fails(errno.EPERM, put, ATTRIBUTE.encode(), b"0:0:04755")
    fails(errno.EPERM, get, b"user.tandemu.security.capability")
    handle = client.open(node, os.O_WRONLY)
    client.write(handle, b"x")
    fails(errno.ENODATA, get, b"security.capability")
    client.call(Opcode.REMOVEXATTR, node, b"user.colour\0")
    fails(errno.ENODATA, get, b"user.colour")


def test_owners_that_are_recorded(folder: Path) -> None:
    client = Client(folder, record_owners=True)
    client.uid, client.gid = 1000, 1001
    node, handle = client.create(ROOT, "program", 0o4711)
    shown = client.stat(node)
    assert (shown["uid"], shown["gid"]) == (1000, 1001)
    assert stat.S_IMODE(shown["mode"]) == 0o4711
    real = (folder / "program").stat()
    assert real.st_uid == os.geteuid() and stat.S_IMODE(real.st_mode) == 0o711
    client.write(handle, b"changed", flags=fuse.WRITE_KILL_PRIVILEGES)
    assert stat.S_IMODE(client.stat(node)["mode"]) == 0o711
    client.setattr(node, fuse.SET_MODE, mode=0)
    assert client.read(client.open(node), 7) == b"changed", "its mode is the guest's to check"
    shown = client.setattr(node, fuse.SET_UID, uid=7)
    assert (shown["uid"], shown["gid"], shown["mode"]) == (7, 1001, stat.S_IFREG)
    _, device = client.mknod(ROOT, "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert device["mode"] == stat.S_IFCHR | 0o666 and device["rdev"] == os.makedev(1, 3)
    assert stat.S_ISREG((folder / "null").stat().st_mode)
    client.setattr(ROOT, fuse.SET_GID | fuse.SET_MODE, gid=50, mode=0o2775)
    assert client.stat(client.mkdir(ROOT, "below"))["gid"] == 50
    client.close()


@pytest.mark.parametrize(
    "text", [b"", b"1:2", b"a:b:c", b"99999999999:0:0", b"4294967296:0:0644", b"0:0:09"]
)
def test_records_that_are_nonsense(text: bytes) -> None:
    assert parse(text, stat.S_IFREG) is None


@pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
def test_owners_on_the_host(folder: Path) -> None:
    client = Client(folder)
    client.uid = client.gid = 1234
    node = client.create(ROOT, "file", 0o666)[0]
    assert (folder / "file").stat().st_uid == 1234
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o666, "whatever our umask"
    client.setattr(node, fuse.SET_UID | fuse.SET_GID, uid=0, gid=5)
    assert (folder / "file").stat().st_gid == 5
    link = client.symlink(ROOT, "link", "file")
    client.setattr(link, fuse.SET_UID, uid=9)
    assert (folder / "file").stat().st_uid == 0
    assert (folder / "link").lstat().st_uid == 9
    fails(errno.EPERM, client.mknod, ROOT, "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    client.close()


def test_read_only(folder: Path) -> None:
    (folder / "file").write_text("kept")
    client = Client(folder, read_only=True)
    node = client.lookup("file")
    assert client.read(client.open(node), 10) == b"kept"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
        fails(errno.EROFS, client.open, node, flags)
    fails(errno.EROFS, client.create, ROOT, "new")
    fails(errno.EROFS, client.mkdir, ROOT, "new")
    fails(errno.EROFS, client.setattr, node, fuse.SET_MODE)
    fails(errno.EROFS, client.call, Opcode.UNLINK, ROOT, b"file\0")
    assert os.listdir(folder) == ["file"]
    client.close()


def test_cached_content_is_kept_while_it_is_right(folder: Path) -> None:
    (folder / "file").write_text("old")
    client = Client(folder)
    node = client.lookup("file")

    def keeps() -> bool:
        answer = client.call(Opcode.OPEN, node, fuse.OPEN_IN.pack(os.O_RDONLY, 0))
        return bool(fuse.OPEN_OUT.unpack(answer)[1] & fuse.OPEN_KEEP_CACHE)

    assert [keeps(), keeps()] == [False, True]
    (folder / "file").write_text("other")
    assert [keeps(), keeps()] == [False, True]
    handle = client.open(node, os.O_WRONLY)
    client.write(handle, b"by the guest")
    client.release(handle, os.O_WRONLY)
    assert keeps()
    client.close()
    client = Client(folder, caching=Caching.NONE)
    answer = client.call(Opcode.OPEN, client.lookup("file"), fuse.OPEN_IN.pack(0, 0))
    assert fuse.OPEN_OUT.unpack(answer)[1] == fuse.OPEN_DIRECT
    client.close()


# Guests that want out ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", ".", "", "../secret", "/etc/passwd", "a/b", "x" * 256])
def test_names_lead_nowhere_else(client: Client, folder: Path, name: str) -> None:
    (folder / "a").mkdir()
    expected = errno.ENAMETOOLONG if len(name) > 255 else errno.EINVAL
    calls: list[Callable[[], object]] = [
        lambda: client.call(Opcode.LOOKUP, ROOT, name.encode() + b"\0"),
        lambda: client.create(ROOT, name),
        lambda: client.mkdir(ROOT, name),
        lambda: client.mknod(ROOT, name, stat.S_IFREG),
        lambda: client.symlink(ROOT, name, "x"),
        lambda: client.call(Opcode.UNLINK, ROOT, name.encode() + b"\0"),
        lambda: client.call(Opcode.RMDIR, ROOT, name.encode() + b"\0"),
        lambda: client.call(
            Opcode.RENAME, ROOT, fuse.RENAME_IN.pack(ROOT) + b"a\0" + name.encode() + b"\0"
        ),
        lambda: client.call(
            Opcode.RENAME, ROOT, fuse.RENAME_IN.pack(ROOT) + name.encode() + b"\0b\0"
        ),
    ]
    for call in calls:
        fails(expected, call)
    assert (folder.parent / "secret").read_text() == "not for guests"


def test_symbolic_links_are_not_followed(client: Client, folder: Path) -> None:
    (folder / "file link").symlink_to(folder.parent / "secret")
    (folder / "directory link").symlink_to(folder.parent)
    file, directory = client.lookup("file link"), client.lookup("directory link")
    fails(errno.EINVAL, client.open, file)
    fails(errno.EINVAL, client.setattr, file, fuse.SET_SIZE)
    fails(errno.ENOTDIR, client.call, Opcode.LOOKUP, directory, b"secret\0")
    fails(errno.ENOTDIR, client.create, directory, "new")
    fails(errno.ENOTDIR, client.call, Opcode.OPENDIR, directory, fuse.OPEN_IN.pack(0, 0))
    fails(errno.EINVAL, client.create, ROOT, "file link")
    fails(
        errno.ENODATA, client.call, Opcode.GETXATTR, file, fuse.GETXATTR_IN.pack(9, 0) + b"user.a\0"
    )
    assert (folder.parent / "secret").read_text() == "not for guests"


def test_special_files_are_not_opened(client: Client, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    fails(errno.EINVAL, client.open, client.lookup("pipe"))


def test_renames_on_the_host_do_not_open_a_way_out(client: Client, folder: Path) -> None:
    """A directory is exchanged for a link to the outside all the time, while the guest looks up."""
    (folder / "place").mkdir()
    (folder / "place" / "inside").write_text("inside")
    (folder / "other").symlink_to(folder.parent)
    over = threading.Event()

    def exchange() -> None:
        while not over.is_set():
            os.rename(folder / "place", folder / "aside")
            os.rename(folder / "other", folder / "place")
            os.rename(folder / "place", folder / "other")
            os.rename(folder / "aside", folder / "place")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(2000):
            try:
                node = client.lookup("place")
                with pytest.raises(OSError):
                    client.lookup("secret", node)
            except FileNotFoundError:
                continue
    finally:
        over.set()
        thread.join()


def test_numbers_that_were_never_given(client: Client) -> None:
    for node in (0, 2, 99, (1 << 64) - 1):
        fails(errno.ESTALE, client.stat, node)
        fails(errno.ESTALE, client.call, Opcode.LOOKUP, node, b"a\0")
    for handle in (0, 99, (1 << 64) - 1):
        fails(errno.EBADF, client.read, handle, 1)
        fails(errno.EBADF, client.release, handle)
    client.call(Opcode.FORGET, ROOT, fuse.FORGET_IN.pack((1 << 64) - 1))
    assert client.stat(ROOT)["mode"]


def test_forgetting(client: Client, folder: Path) -> None:
    (folder / "file").write_text("x")
    before = len(os.listdir("/proc/self/fd"))
    node = client.lookup("file")
    assert client.lookup("file") == node
    client.call(Opcode.FORGET, node, fuse.FORGET_IN.pack(1))
    assert client.stat(node)["size"] == 1
    body = fuse.BATCH_FORGET_IN.pack(2, 0) + fuse.FORGET_ONE.pack(node, 5)
    client.call(Opcode.BATCH_FORGET, 0, body)
    fails(errno.ESTALE, client.stat, node)
    client.open(client.lookup("file"))
    client.call(Opcode.DESTROY, 0)
    assert len(os.listdir("/proc/self/fd")) == before
    fails(errno.EIO, client.stat, ROOT)
    client.initialise()
    assert client.stat(ROOT)["mode"]


def test_any_request_is_answered(client: Client, folder: Path) -> None:
    chance = random.Random(4)
    (folder / "directory").mkdir()
    (folder / "file").write_text("x" * 100)
    nodes = [client.lookup("directory"), client.lookup("file"), ROOT, 0, 1 << 40]
    handle = client.open(nodes[1], os.O_RDWR)
    for _ in range(6000):
        opcode = chance.choice([*Opcode, chance.randrange(1 << 12)])
        if opcode in (Opcode.DESTROY, Opcode.INIT, Opcode.SYNCFS, Opcode.FSYNC):
            continue
        body = chance.choice(
            [
                chance.randbytes(chance.randrange(80)),
                handle.to_bytes(8, "little") + chance.randbytes(40),
                b"file\0directory\0",
                chance.randbytes(8) + b"\0name\0",
            ]
        )
        head = fuse.IN_HEADER.pack(
            *(chance.getrandbits(32), int(opcode), 7, chance.choice(nodes), 0, 0, 1, 0, 0)
        )
        message = (head + body)[: chance.randrange(150)]
        answer = client.raw(message, chance.choice((7, 16, 200, 5000)), chance.randrange(1, 5))
        assert len(answer) in (0, int.from_bytes(answer[:4], "little"))
    assert os.listdir(folder.parent) in (["secret", "folder"], ["folder", "secret"])
    assert (folder.parent / "secret").read_text() == "not for guests"


def test_folders_that_cannot_be_shared(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "none"):
        with pytest.raises(ShareError, match="must be a folder"):
            Share(ShareSettings(str(path)))


def test_versions_that_do_not_match(folder: Path) -> None:
    client = Client(folder)
    answer = client.call(Opcode.INIT, 0, fuse.INIT_IN.pack(8, 0, 0, 0))
    assert fuse.INIT_OUT.unpack(answer)[:2] == (7, 38)
    fails(errno.EPROTO, client.call, Opcode.INIT, 0, fuse.INIT_IN.pack(7, 20, 0, 0))
    fails(errno.EPROTO, client.call, Opcode.INIT, 0, fuse.INIT_IN.pack(6, 1, 0, 0))
    client.close()
