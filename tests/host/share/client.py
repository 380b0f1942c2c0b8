"""A FUSE client: it sends requests to a `Share` as a guest's kernel would, and as none would."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from tandemu.host.share import Caching, Share, ShareSettings
from tandemu.host.share import protocol as fuse
from tandemu.host.share.protocol import Opcode

ATTRIBUTE_NAMES = (
    *("ino", "size", "blocks", "atime", "mtime", "ctime"),
    *("atime_ns", "mtime_ns", "ctime_ns", "mode", "nlink", "uid", "gid", "rdev"),
)


class Client:
    """Talks to the server of a folder; what comes back as an error is raised."""

    def __init__(self, path: Path | str, **settings: object) -> None:
        settings.setdefault("caching", Caching.AUTO)
        self.share = Share(ShareSettings(str(path), **settings))  # type: ignore[arg-type]
        self.uid = self.gid = 0
        self.initialise()

    def initialise(self) -> None:
        flags = (1 << 32) - 1 & ~(1 << 30)
        answer = self.call(Opcode.INIT, 0, fuse.INIT_IN.pack(7, 38, 1 << 17, flags) + bytes(48))
        assert fuse.INIT_OUT.unpack(answer)[:2] == (7, 38)

    def raw(self, message: bytes, room: int = 1 << 16, pieces: int = 1) -> bytes:
        """Send *message* in some pieces; what the reply's buffers hold then."""
        target = bytearray(room)
        step = max(1, -(-len(message) // pieces))
        readable = [
            memoryview(message[start : start + step]) for start in range(0, len(message), step)
        ]
        length = self.share.handle(readable, [memoryview(target)[:7], memoryview(target)[7:]])
        return bytes(target[:length])

    def call(
        self, opcode: int, node: int, body: bytes = b"", room: int = 1 << 16, pieces: int = 1
    ) -> bytes:
        head = fuse.IN_HEADER.pack(
            *(fuse.IN_HEADER.size + len(body), opcode, 7, node, self.uid, self.gid, 1, 0, 0)
        )
        answer = self.raw(head + body, room, pieces)
        if not answer:
            return b""
        length, error, unique = fuse.OUT_HEADER.unpack_from(answer)
        assert length == len(answer) and unique == 7
        if error:
            raise OSError(-error, os.strerror(-error))
        return answer[fuse.OUT_HEADER.size :]

    # What a guest does

    @staticmethod
    def attributes(data: bytes) -> dict[str, int]:
        return dict(zip(ATTRIBUTE_NAMES, fuse.ATTRIBUTES.unpack(data[:88]), strict=False))

    def entry(self, answer: bytes) -> tuple[int, dict[str, int]]:
        return struct.unpack_from("<Q", answer)[0], self.attributes(answer[fuse.ENTRY_OUT.size :])

    def lookup(self, path: str, node: int = fuse.ROOT) -> int:
        for name in path.split("/"):
            node, _ = self.entry(self.call(Opcode.LOOKUP, node, name.encode() + b"\0"))
        return node

    def stat(self, node: int) -> dict[str, int]:
        answer = self.call(Opcode.GETATTR, node, fuse.GETATTR_IN.pack(0, 0, 0))
        return self.attributes(answer[fuse.ATTR_OUT.size :])

    def setattr(self, node: int, valid: int, **values: int) -> dict[str, int]:
        names = (
            *("handle", "size", "lock", "atime", "mtime", "ctime"),
            *("atime_ns", "mtime_ns", "ctime_ns", "mode", "unused", "uid", "gid", "unused2"),
        )
        body = fuse.SETATTR_IN.pack(valid, 0, *[values.get(name, 0) for name in names])
        return self.attributes(self.call(Opcode.SETATTR, node, body)[fuse.ATTR_OUT.size :])

    def open(self, node: int, flags: int = os.O_RDONLY) -> int:
        answer = self.call(Opcode.OPEN, node, fuse.OPEN_IN.pack(flags, 0))
        return int(fuse.OPEN_OUT.unpack(answer)[0])

    def create(
        self, node: int, name: str, mode: int = 0o644, flags: int = os.O_RDWR
    ) -> tuple[int, int]:
        body = fuse.CREATE_IN.pack(flags | os.O_CREAT, mode, 0, 0) + name.encode() + b"\0"
        answer = self.call(Opcode.CREATE, node, body)
        inode, _ = self.entry(answer)
        return inode, int(fuse.OPEN_OUT.unpack(answer[128:])[0])

    def read(self, handle: int, size: int, offset: int = 0, node: int = 1) -> bytes:
        body = fuse.READ_IN.pack(handle, offset, size, 0, 0, 0, 0)
        return self.call(Opcode.READ, node, body, size + fuse.OUT_HEADER.size)

    def write(self, handle: int, data: bytes, offset: int = 0, flags: int = 0) -> int:
        body = fuse.WRITE_IN.pack(handle, offset, len(data), flags, 0, 0, 0) + data
        return int(fuse.WRITE_OUT.unpack(self.call(Opcode.WRITE, 1, body, pieces=3))[0])

    def release(self, handle: int, flags: int = 0) -> None:
        self.call(Opcode.RELEASE, 1, fuse.RELEASE_IN.pack(handle, flags, 0, 0))

    def mkdir(self, node: int, name: str, mode: int = 0o755) -> int:
        body = fuse.MKDIR_IN.pack(mode, 0) + name.encode() + b"\0"
        return self.entry(self.call(Opcode.MKDIR, node, body))[0]

    def mknod(self, node: int, name: str, mode: int, device: int = 0) -> tuple[int, dict[str, int]]:
        body = fuse.MKNOD_IN.pack(mode, device, 0, 0) + name.encode() + b"\0"
        return self.entry(self.call(Opcode.MKNOD, node, body))

    def symlink(self, node: int, name: str, target: str) -> int:
        body = f"{name}\0{target}\0".encode()
        return self.entry(self.call(Opcode.SYMLINK, node, body))[0]

    def list(self, node: int, *, plus: bool = False, room: int = 4096) -> dict[str, int]:
        """Names and kinds; of *plus*, node numbers."""
        answer = self.call(Opcode.OPENDIR, node, fuse.OPEN_IN.pack(0, 0))
        handle = fuse.OPEN_OUT.unpack(answer)[0]
        found: dict[str, int] = {}
        offset = 0
        while True:
            body = fuse.READ_IN.pack(handle, offset, room, 0, 0, 0, 0)
            opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
            data = self.call(opcode, node, body, room + fuse.OUT_HEADER.size)
            if not data:
                break
            while data:
                number = struct.unpack_from("<Q", data)[0]
                data = data[128:] if plus else data
                _, offset, length, kind = fuse.DIRECTORY_ENTRY.unpack_from(data)
                name = data[24 : 24 + length].decode()
                found[name] = number if plus else kind
                data = data[24 + length + -length % 8 :]
        self.call(Opcode.RELEASEDIR, node, fuse.RELEASE_IN.pack(handle, 0, 0, 0))
        return found

    def close(self) -> None:
        self.share.close()
