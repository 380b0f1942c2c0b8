"""A machine's network cards, as options and as values."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING

from tandemu.bits import Record
from tandemu.machine.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = ("user", "tap", "socket", "none")
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
_RATE = re.compile(r"(\d{1,15})([KMGT]?)", flags=re.ASCII | re.IGNORECASE)
_SMALLEST_MTU, _LARGEST_MTU = 1280, 65520
_LISTS = frozenset({"allow", "deny"})
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})")
_OF_ALL = ("mac", "mtu", "capture", "capture-rotate", "rate", "burst", "link")
_OPTIONS = {
    "user": ("forward", "allow", "deny", "host", "ipv6", "subnet", "hostname", *_OF_ALL),
    "tap": _OF_ALL,
    "socket": ("local", "remote", *_OF_ALL),
    "none": (),
}
"""What may be said of each kind."""
_USUAL_MTU = {"user": _LARGEST_MTU}
_ETHERNET_MTU = 1500
_LONGEST_INTERFACE = 15


class NetworkOption(Record):
    """One card and the network behind it.

    *rules* are ``allow`` or ``deny`` and what it is of, in order; *forwards* as the option has
    them; *rate_bytes_per_s* limits each direction. *mac* "" is one that is made of the card's
    number.
    """

    kind: str = "user"
    mac: str = ""
    mtu: int = 0
    forwards: tuple[str, ...] = ()
    rules: tuple[tuple[str, str], ...] = ()
    host_loopback: bool = False
    ipv6: bool = True
    subnet: str = "10.0.2.0/24"
    host_name: str = ""
    capture: str = ""
    rotate_bytes: int = 0
    rate_bytes_per_s: int = 0
    burst_bytes: int = 0
    link_up: bool = True
    interface: str = ""
    local: str = ""
    remote: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"a network of kind {self.kind!r}: must be {' or '.join(KINDS)}")
        if self.mac:
            if not _MAC.fullmatch(self.mac):
                raise OptionError(
                    f"mac={self.mac}: must be six bytes in hexadecimal such as 52:54:00:12:34:56"
                )
            if int(self.mac[:2], 16) & 1 or int(self.mac.replace(":", ""), 16) == 0:
                raise OptionError(
                    f"mac={self.mac}: must be the address of one card, not of a group"
                )
        if self.mtu and not _SMALLEST_MTU <= self.mtu <= _LARGEST_MTU:
            raise OptionError(f"mtu={self.mtu}: must be {_SMALLEST_MTU} to {_LARGEST_MTU}")
        if self.host_name and not _HOST_NAME.fullmatch(self.host_name):
            raise OptionError(
                f"hostname={self.host_name}: must be at most 63 letters, digits and hyphens"
            )
        if self.burst_bytes and not self.rate_bytes_per_s:
            raise OptionError("burst= is for rate=: give both")
        if self.rotate_bytes and not self.capture:
            raise OptionError("capture-rotate= is for capture=: give both")
        if "\0" in self.capture:
            raise OptionError("capture= with a NUL: give the path of a file")
        if self.kind == "tap" and not (
            0 < len(self.interface) <= _LONGEST_INTERFACE
            and self.interface.isascii()
            and self.interface.isprintable()
            and not set(self.interface) & set("/% ")
        ):
            raise OptionError(
                f"tap={self.interface}: must be the name of an interface, such as tap=tap0"
            )
        if self.kind == "socket" and not (self.local and self.remote):
            raise OptionError("a network of kind socket: give local=PATH and remote=PATH")
        _check_subnet(self.subnet)

    @property
    def packet_bytes(self) -> int:
        """The MTU: the one that was asked for, or the kind's."""
        return self.mtu or _USUAL_MTU.get(self.kind, _ETHERNET_MTU)

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The guest's IPv4 network."""
        return ipaddress.IPv4Network(self.subnet)


def _check_subnet(given: str) -> None:
    try:
        network = ipaddress.IPv4Network(given)
    except ValueError:
        network = None
    if network is None or not 8 <= network.prefixlen <= 28:
        raise OptionError(
            f"subnet={given}: must be an IPv4 network of /8 to /28 such as 10.0.2.0/24, with "
            "nothing behind its prefix"
        )


def parse_network(given: str | NetworkOption) -> NetworkOption:
    """A network from ``user[,OPTION…]`` or ``none``; ``allow``, ``deny``, ``forward`` may come
    again.

    >>> parse_network("user,forward=2222-22,deny=*").rules
    (('deny', '*'),)
    """
    if isinstance(given, NetworkOption):
        return given
    if not isinstance(given, str):
        raise OptionError(f"a network of {given!r}: give a text such as 'user', or a NetworkOption")
    first, *words = (part.replace("\0", ",") for part in given.replace(",,", "\0").split(","))
    kind, _, interface = first.partition("=")
    if kind not in KINDS or (interface and kind != "tap"):
        raise OptionError(f"a network of kind {first!r}: must be {' or '.join(KINDS)}")
    known = _OPTIONS[kind]
    named: dict[str, str] = {}
    rules: list[tuple[str, str]] = []
    forwards: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name not in known:
            options = f"none of {', '.join(known)}" if known else "too much: it has no options"
            raise OptionError(f"{given!r} has {name!r}, which is {options}")
        if not equals or not value:
            raise OptionError(f"{name} in {given!r}: must be {name}=VALUE")
        if name == "forward":
            forwards.append(value)
        elif name in _LISTS:
            rules.append((name, value))
        elif name in named:
            raise OptionError(f"{given!r} says {name} twice")
        else:
            named[name] = value
    return NetworkOption(
        kind,
        named.get("mac", "").lower(),
        _number(given, named, "mtu", 0),
        tuple(forwards),
        tuple(rules),
        _choice(given, named, "host", default=False),
        _choice(given, named, "ipv6", default=True),
        named.get("subnet", "10.0.2.0/24"),
        named.get("hostname", ""),
        os.fspath(named.get("capture", "")),
        _number(given, named, "capture-rotate", 0),
        _number(given, named, "rate", 0),
        _number(given, named, "burst", 0),
        _choice(given, named, "link", default=True, words=("up", "down")),
        interface,
        named.get("local", ""),
        named.get("remote", ""),
    )


def _number(text: str, named: Mapping[str, str], name: str, default: int) -> int:
    value = named.get(name, str(default))
    match = _RATE.fullmatch(value)
    if match is None:
        raise OptionError(f"{name}={value} in {text!r}: must be a number, such as 1500 or 10M")
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")


def _choice(
    text: str,
    named: Mapping[str, str],
    name: str,
    *,
    default: bool,
    words: tuple[str, str] = ("on", "off"),
) -> bool:
    if name not in named:
        return default
    if named[name] not in words:
        raise OptionError(f"{name}={named[name]} in {text!r}: must be {' or '.join(words)}")
    return named[name] == words[0]
