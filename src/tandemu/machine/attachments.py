"""What a machine has of the host's: disk images, folders, sockets, as options and as values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from tandemu.bits import Record, replace
from tandemu.machine.errors import OptionError
from tandemu.machine.networks import NetworkOption, parse_network

Path = str | os.PathLike[str]

DEFAULT_TAG = "share"
"""What a folder is mounted as if nothing else is said."""
ROOT_TAG = "root"
DEVICES = ("balloon", "console", "rng")
"""What a machine has if it is asked for by name."""
_MOST_PORTS = 15
_MOST_CARDS = 8
_LONGEST_SOCKET = 96
"""Bytes that a socket's path may have: those of the system's, without a port's number."""
_CACHES = ("none", "auto", "always")
_OWNERS = ("", "host", "recorded")
_INTERFACES = ("virtio", "virtio-mmio")
_LONGEST_SERIAL = 20
_MOST_QUEUES = 16
_NUMBER = re.compile(r"(\d{1,18})([KMGT]?)", flags=re.ASCII | re.IGNORECASE)


class Drive(Record):
    """The disk image at *path* as a disk of the guest's.

    *format* "" means that it is told from the file's content; *serial* is what the guest can tell
    the disk by. *bytes_per_s* and *operations_per_s* bound how fast it is, after a burst at once
    (0: of one second).
    """

    path: str
    format: str = ""
    read_only: bool = False
    interface: str = "virtio"
    serial: str = ""
    queues: int = 1
    bytes_per_s: int = 0
    operations_per_s: int = 0
    burst_bytes: int = 0
    burst_operations: int = 0

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path:
            raise OptionError("a drive without a file: give the path of a disk image")
        if self.interface not in _INTERFACES:
            raise OptionError(
                f"a drive with if={self.interface}: must be one of {', '.join(_INTERFACES)}"
            )
        if not self.serial.isascii() or len(self.serial) > _LONGEST_SERIAL:
            raise OptionError(
                f"a drive with the serial {self.serial!r}: must be at most {_LONGEST_SERIAL} "
                "ASCII characters"
            )
        if not 1 <= self.queues <= _MOST_QUEUES:
            raise OptionError(f"a drive with {self.queues} queues: must be 1 to {_MOST_QUEUES}")
        for rate, burst, name in (
            (self.bytes_per_s, self.burst_bytes, "bps"),
            (self.operations_per_s, self.burst_operations, "iops"),
        ):
            if not (0 <= rate < 1 << 62 and 0 <= burst < 1 << 62) or (burst and not rate):
                raise OptionError(
                    f"a drive with {name}={rate} and {name}-burst={burst}: must be a number a "
                    "second, and with it how many may come at once"
                )


def split_option(text: str) -> tuple[str, dict[str, str]]:
    """The first word of an option, and its other words by name; a comma is written twice.

    >>> split_option("a,,b,format=raw,readonly")
    ('a,b', {'format': 'raw', 'readonly': ''})
    """
    first, *words = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    named: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in named:
            raise OptionError(f"{text!r} says {name} twice")
        named[name] = value
    return first, named


def _flag(text: str, name: str, value: str) -> bool:
    if value not in ("", "on", "off"):
        raise OptionError(f"{name}={value} in {text!r}: must be {name}, {name}=on or {name}=off")
    return value != "off"


def _refuse_others(text: str, named: Mapping[str, str], known: Iterable[str]) -> None:
    known = tuple(known)
    for name in named:
        if name not in known:
            raise OptionError(
                f"{text!r} has {name!r}, which is none of {', '.join(known)}; a comma in a file's "
                "name is written twice"
            )


def _number(text: str, named: Mapping[str, str], name: str, default: int) -> int:
    """The number that *text* gives *name*, with K, M, G or T or without."""
    value = named.get(name, str(default))
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise OptionError(f"{name}={value} in {text!r}: must be a number, such as 100 or 50M")
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")


def parse_drive(given: Path | Drive) -> Drive:
    """A drive from ``FILE[,format=F][,readonly][,if=virtio][,serial=S][,queues=N]`` and limits.

    The limits are ``[,bps=SIZE[,bps-burst=SIZE]][,iops=N[,iops-burst=N]]``.
    """
    if isinstance(given, Drive):
        return given
    if not isinstance(given, str):
        return Drive(os.fspath(given))
    path, named = split_option(given)
    limits = ("bps", "iops", "bps-burst", "iops-burst")
    _refuse_others(given, named, ("format", "readonly", "if", "serial", "queues", *limits))
    return Drive(
        path,
        named.get("format", ""),
        "readonly" in named and _flag(given, "readonly", named["readonly"]),
        named.get("if", "virtio"),
        named.get("serial", ""),
        _number(given, named, "queues", 1),
        *(_number(given, named, name, 0) for name in limits),
    )


class Share(Record):
    """The folder at *path* as a file system of the guest's, which mounts it as *tag*.

    *owner* says where owners and modes that the guest sets are: ``host`` for on the files
    themselves, ``recorded`` for beside them, "" for the first if we are root, else the second.
    """

    path: str
    tag: str = DEFAULT_TAG
    read_only: bool = False
    cache: str = "auto"
    owner: str = ""

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path:
            raise OptionError("a share without a folder: give the path of one")
        if not self.tag.isascii() or not self.tag.isprintable() or not 1 <= len(self.tag) <= 36:
            raise OptionError(
                f"a share with the tag {self.tag!r}: must be 1 to 36 printable ASCII characters"
            )
        for name, value, known in (("cache", self.cache, _CACHES), ("owner", self.owner, _OWNERS)):
            if value not in known:
                raise OptionError(
                    f"a share with {name}={value}: must be {' or '.join(filter(None, known))}"
                )


def parse_share(given: Path | Share) -> Share:
    """A share from ``DIR[:TAG][,readonly][,cache=none|auto|always][,owner=host|recorded]``."""
    if isinstance(given, Share):
        return given
    if not isinstance(given, str):
        return Share(os.fspath(given))
    path, named = split_option(given)
    _refuse_others(given, named, ("readonly", "cache", "owner"))
    folder, colon, tag = path.rpartition(":")
    if not colon or "/" in tag:
        folder, tag = path, DEFAULT_TAG
    return Share(
        folder,
        tag,
        "readonly" in named and _flag(given, "readonly", named["readonly"]),
        named.get("cache", "auto"),
        named.get("owner", ""),
    )


class SerialPort(Record):
    """A port of the guest's called *name*, connected with the Unix socket at *path*."""

    name: str
    path: str

    def __post_init__(self) -> None:
        if not self.name.isascii() or not self.name.isprintable() or not 1 <= len(self.name) <= 64:
            raise OptionError(
                f"a port with the name {self.name!r}: must be 1 to 64 printable ASCII characters"
            )
        if not 1 <= len(os.fsencode(self.path)) <= _LONGEST_SOCKET:
            raise OptionError(
                f"a port with the socket {self.path!r}: must be a path of at most "
                f"{_LONGEST_SOCKET} bytes"
            )


def parse_port(given: str | SerialPort) -> SerialPort:
    """A port from ``NAME=SOCKET``."""
    if isinstance(given, SerialPort):
        return given
    name, equals, path = given.partition("=")
    if not equals:
        raise OptionError(f"the port {given!r}: give NAME=SOCKET")
    return SerialPort(name, path)


class Attachments(Record):
    """All that a machine is given; *boot_words* go onto the kernel's command line.

    *vsock* is the path of a socket, "" for none; *devices* are names of `DEVICES`.
    """

    drives: tuple[Drive, ...] = ()
    shares: tuple[Share, ...] = ()
    vsock: str = ""
    devices: tuple[str, ...] = ()
    ports: tuple[SerialPort, ...] = ()
    boot_words: str = ""
    networks: tuple[NetworkOption, ...] = ()

    def __post_init__(self) -> None:
        tags = [share.tag for share in self.shares]
        for tag in tags:
            if tags.count(tag) > 1:
                raise OptionError(
                    f"two shares have the tag {tag!r}: name them apart, as in DIR:TAG"
                )
        names = [port.name for port in self.ports]
        for name in names:
            if names.count(name) > 1:
                raise OptionError(f"two ports are called {name!r}: name them apart")
        if len(names) > _MOST_PORTS:
            raise OptionError(f"{len(names)} ports: must be at most {_MOST_PORTS}")
        for name in self.devices:
            if name not in DEVICES:
                raise OptionError(f"no device is called {name!r}: there are {', '.join(DEVICES)}")
            if self.devices.count(name) > 1:
                raise OptionError(f"the device {name} is asked for twice: a machine has one")
        if len(os.fsencode(self.vsock)) > _LONGEST_SOCKET:
            raise OptionError(
                f"the socket's path {self.vsock!r} is too long: at most {_LONGEST_SOCKET} bytes"
            )

    def __bool__(self) -> bool:
        return bool(
            self.drives or self.shares or self.vsock or self.devices or self.ports or self.networks
        )

    @property
    def root_is_folder(self) -> bool:
        """Whether the guest's root is a folder: it then starts without an initial RAM disk."""
        return "virtiofs" in self.boot_words


def gather(
    drives: Iterable[Path | Drive] = (),
    shares: Iterable[Path | Share] = (),
    root: Path | Drive | Share | None = None,
    vsock: Path | None = None,
    devices: Iterable[str] = (),
    ports: Iterable[str | SerialPort] = (),
    net: str | NetworkOption | Iterable[str | NetworkOption] = (),
) -> Attachments:
    """What the arguments of a machine say; *root* is a folder or a disk image."""
    all_drives = [parse_drive(drive) for drive in drives]
    all_shares = [parse_share(share) for share in shares]
    words = ""
    if root is not None:
        found = _parse_root(root)
        if isinstance(found, Share):
            all_shares.append(found)
            words = f"root={found.tag} rootfstype=virtiofs {'ro' if found.read_only else 'rw'}"
        else:
            all_drives.insert(0, found)
            words = f"root=/dev/vda {'ro' if found.read_only else 'rw'}"
    socket = "" if vsock is None else os.fspath(vsock)
    return Attachments(
        tuple(all_drives),
        tuple(all_shares),
        socket,
        tuple(devices),
        tuple(parse_port(port) for port in ports),
        words,
        _parse_networks(net),
    )


def _parse_networks(
    given: str | NetworkOption | Iterable[str | NetworkOption],
) -> tuple[NetworkOption, ...]:
    if isinstance(given, str | NetworkOption):
        given = (given,)
    networks = [parse_network(one) for one in given]
    if len(networks) > 1 and any(one.kind == "none" for one in networks):
        raise OptionError("net none beside others: say one or the other")
    if len(networks) > _MOST_CARDS:
        raise OptionError(f"{len(networks)} network cards: must be at most {_MOST_CARDS}")
    return tuple(one for one in networks if one.kind != "none")


def _parse_root(given: Path | Drive | Share) -> Drive | Share:
    if isinstance(given, Drive | Share):
        return given
    path = split_option(given)[0] if isinstance(given, str) else os.fspath(given)
    if not os.path.isdir(path):
        return parse_drive(given)
    share = parse_share(given)
    return replace(share, tag=ROOT_TAG) if share.tag == DEFAULT_TAG else share
