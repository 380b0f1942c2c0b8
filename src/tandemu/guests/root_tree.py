"""A whole Debian system as an archive, unpacked from packages without running any of them.

What ``dpkg --unpack`` would leave behind: the files, configuration files beside their places, and
dpkg's database, in which every package waits to be configured. The system does that by itself when
it starts first (`FIRST_START`), and becomes what its packages say.

Sources: deb(5), deb-conffiles(5), deb-triggers(5), dpkg's database as its own code writes it.
Left out: scripts that packages run before they are unpacked.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from tandemu.guests.deb import DebFile
from tandemu.guests.tar import Header

FIRST_START = """\
#!/bin/sh
# The first start of this system: its packages are configured, then it goes on as it always will.
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mount -o remount,rw /
mount -t tmpfs tmpfs /run
ln -sf /proc/self/fd /dev/fd
exec </dev/console >/dev/console 2>&1
echo "This is the first start: @COUNT@ packages are configured, which takes some minutes."
ldconfig
if ! dpkg --configure -a && ! dpkg --configure -a; then
    echo "dpkg did not come to its end. This shell is to look why; its end starts the system."
    sh
fi
passwd -d root
depmod
systemctl enable systemd-networkd
ln -sf ../lib/systemd/systemd /usr/sbin/init
sync
echo "The packages are configured."
umount /run
exec /usr/sbin/init
"""
"""The first ``/sbin/init``: it puts systemd in its place."""

_TO_DISK = """\
#!/bin/sh
# Copies this system to the disk that is named, which is formatted.
set -e
[ -b "$1" ] || { echo "usage: copy-system /dev/vda: what is on that disk is lost" >&2; exit 2; }
mkfs.ext4 -q -F "$1"
mkdir -p /run/copy-system/from /run/copy-system/to
mount --bind / /run/copy-system/from
mount "$1" /run/copy-system/to
cp -a /run/copy-system/from/. /run/copy-system/to
umount /run/copy-system/from /run/copy-system/to
rm -r /run/copy-system
echo "The system is on $1 too: tandemu run --root FILE starts it from there."
"""

_NETWORK = """\
[Match]
Name=e*

[Network]
DHCP=yes
"""

_MERGED = ("bin", "lib", "sbin")
_INFO = "var/lib/dpkg/info"
_TRIGGERS = "var/lib/dpkg/triggers"
_ACCOUNTS = {
    "usr/share/base-passwd/passwd.master": "etc/passwd",
    "usr/share/base-passwd/group.master": "etc/group",
}
"""What base-passwd makes the first accounts of."""
_ALONE = frozenset(("control", "md5sums", "conffiles", "triggers", "shlibs", "symbols"))


class _Content(io.RawIOBase):
    """The pieces of a member as a file to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _merged(name: str) -> str:
    """*name* with what is a link into ``usr`` followed."""
    first, slash, rest = name.partition("/")
    return f"usr/{first}/{rest}" if first in _MERGED and slash else name


class RootTree:
    """The archive being written to *target*; *suite* and *mirror* are where its apt looks."""

    def __init__(self, target: BinaryIO, *, suite: str, mirror: str) -> None:
        self._target = target
        self._suite, self._mirror = suite, mirror
        self._seen: set[str] = set()
        self._status: list[str] = []
        self._triggers: dict[str, list[str]] = {}

    def write(self, packages: Iterable[DebFile], files: Mapping[str, bytes]) -> None:
        """Write everything: *packages*, and *files* besides, by their paths."""
        with (
            gzip.GzipFile(fileobj=self._target, mode="wb", compresslevel=1, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as archive,
        ):
            self._archive = archive
            # The links that make /bin one of /usr/bin are in base-files.
            ordered = sorted(packages, key=lambda one: not one.path.name.startswith("base-files_"))
            init = FIRST_START.replace("@COUNT@", str(len(ordered)))
            self._add("usr/sbin/init", init.encode(), 0o755)
            for package in ordered:
                self._unpack(package)
            self._settle()
            for name, content in files.items():
                self._add(_merged(name), content)

    # Members ----------------------------------------------------------------------------

    def _new(self, name: str) -> bool:
        """Whether *name* is not there yet; the folders it stands in are made."""
        if name in self._seen:
            return False
        parent = name.rpartition("/")[0]
        if parent and self._new(parent):
            self._put(Header(parent, "directory", 0, "", 0o755))
        self._seen.add(name)
        return True

    def _put(self, header: Header, content: _Content | io.BytesIO | None = None) -> None:
        member = tarfile.TarInfo(header.name)
        member.type = {
            "file": tarfile.REGTYPE,
            "link": tarfile.LNKTYPE,
            "symlink": tarfile.SYMTYPE,
            "directory": tarfile.DIRTYPE,
        }[header.kind]
        member.size, member.mode, member.linkname = header.size, header.mode, header.target
        member.uid, member.gid, member.mtime = header.uid, header.gid, header.modified
        self._archive.addfile(member, content)

    def _add(self, name: str, content: bytes, mode: int = 0o644) -> None:
        if self._new(name):
            self._put(Header(name, "file", len(content), "", mode), io.BytesIO(content))

    # Packages ---------------------------------------------------------------------------

    def _unpack(self, package: DebFile) -> None:
        control: dict[str, tuple[bytes, int]] = {}
        for header, pieces in package.members("control"):
            if header.kind == "file":
                control[header.name] = b"".join(pieces), header.mode
        fields = package.control()
        name = fields["Package"]
        if fields.get("Multi-Arch") == "same":
            name = f"{name}:{fields['Architecture']}"
        waiting = _conffiles(control.get("conffiles", (b"", 0))[0])
        listed = ["/."]
        for header, pieces in package.members():
            listed += [f"/{header.name}"] if header.name else []
            self._take(header, pieces, waiting)
        self._register(name, control, waiting, listed)

    def _take(self, header: Header, pieces: Iterator[bytes], waiting: set[str]) -> None:
        """Put a member of a package into the archive, unless another has brought it."""
        name, target = _merged(header.name), header.target
        if f"/{header.name}" in waiting:
            name += ".dpkg-new"
        if not name or header.kind == "other" or not self._new(name):
            return
        if header.kind == "link":
            target = _merged(target.removeprefix("./"))
        placed = Header(
            *(name, header.kind, header.size, target, header.mode),
            *(header.uid, header.gid, header.modified),
        )
        if name in _ACCOUNTS:
            # Other packages' scripts name users and groups before base-passwd is configured.
            content = b"".join(pieces)
            self._put(placed, io.BytesIO(content))
            self._add(_ACCOUNTS[name], content)
            return
        self._put(placed, _Content(pieces) if header.kind == "file" else None)

    def _register(
        self,
        name: str,
        control: Mapping[str, tuple[bytes, int]],
        waiting: set[str],
        listed: list[str],
    ) -> None:
        """Note a package in dpkg's database."""
        for kind, (content, mode) in control.items():
            if kind != "control":
                script = kind not in _ALONE
                self._add(f"{_INFO}/{name}.{kind}", content, mode if script else 0o644)
        self._add(f"{_INFO}/{name}.list", "".join(f"{path}\n" for path in listed).encode())
        paragraph = control["control"][0].decode(errors="surrogateescape").strip()
        first, _, rest = paragraph.partition("\n")
        lines = [first, "Status: install ok unpacked", rest]
        if waiting:
            lines += ["Conffiles:", *(f" {path} newconffile" for path in sorted(waiting))]
        self._status.append("\n".join(lines) + "\n")
        for line in control.get("triggers", (b"", 0))[0].decode(errors="replace").splitlines():
            self._note_trigger(name, line.split("#")[0].split())

    def _note_trigger(self, name: str, words: list[str]) -> None:
        """Have dpkg know what a package waits to hear of (deb-triggers(5))."""
        if len(words) != 2 or not words[0].startswith("interest"):
            return
        package = name + ("/noawait" if words[0].endswith("-noawait") else "")
        if words[1].startswith("/"):
            self._triggers.setdefault("File", []).append(f"{words[1]} {package}")
        else:
            self._triggers.setdefault(words[1], []).append(package)

    def _settle(self) -> None:
        """What the packages together need: dpkg's database, where apt looks, its names."""
        add = self._add
        add("var/lib/dpkg/status", "\n".join(self._status).encode("utf-8", "surrogateescape"))
        add("var/lib/dpkg/available", b"")
        add(f"{_INFO}/format", b"1\n")
        for kind, lines in self._triggers.items():
            add(f"{_TRIGGERS}/{kind}", "".join(f"{line}\n" for line in lines).encode())
        source = f"Types: deb\nURIs: {self._mirror}\nSuites: {self._suite}\nComponents: main\n"
        keyring = "Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp\n"
        add("etc/apt/sources.list.d/debian.sources", (source + keyring).encode())
        add("etc/hostname", b"debian\n")
        add("etc/hosts", b"127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost\n")
        add("etc/fstab", b"")
        add("etc/systemd/network/80-dhcp.network", _NETWORK.encode())
        add("usr/local/sbin/copy-system", _TO_DISK.encode(), 0o755)


def _conffiles(content: bytes) -> set[str]:
    """The configuration files of a package; flags such as remove-on-upgrade are no files."""
    lines = content.decode(errors="surrogateescape").splitlines()
    return {line for line in lines if line.startswith("/")}
