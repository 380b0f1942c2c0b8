"""Which frames a card lets through to the guest: Virtio 1.2, sections 5.1.6.5.1 to 5.1.6.5.3."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tandemu.net.link import HEADER_BYTES

_MOST_ADDRESSES = 256
_BROADCAST = b"\xff" * 6
_VLAN_TYPE = b"\x81\0"


class CardFilter:
    """The receive filter of a card with the address *mac*: after a reset everything passes."""

    def __init__(self, mac: bytes) -> None:
        self.mac = mac
        self.enabled = False
        """Whether the network has frames for others at all."""
        self.vlans_filtered = False
        self.promiscuous, self.all_multicast, self.all_unicast = True, False, False
        self.no_multicast = self.no_unicast = self.no_broadcast = False
        self.unicast: frozenset[bytes] = frozenset()
        self.multicast: frozenset[bytes] = frozenset()
        self.vlans: set[int] = set()

    def passes(self, start: bytes) -> bool:
        """Whether the frame that begins with *start* (with its header) is the guest's."""
        target = start[HEADER_BYTES : HEADER_BYTES + 6]
        if self.vlans_filtered and start[HEADER_BYTES + 12 : HEADER_BYTES + 14] == _VLAN_TYPE:
            tag = int.from_bytes(start[HEADER_BYTES + 14 : HEADER_BYTES + 16], "big") & 0xFFF
            if tag and tag not in self.vlans:
                return False
        if self.promiscuous:
            return True
        if target == _BROADCAST:
            return not self.no_broadcast
        if target[0] & 1:
            return not self.no_multicast and (self.all_multicast or target in self.multicast)
        if self.no_unicast:
            return False
        return self.all_unicast or target == self.mac or target in self.unicast

    def set_mode(self, name: str, data: bytes) -> bool:
        """Switch a mode on or off; False: the command is malformed."""
        if len(data) != 1 or data[0] > 1:
            return False
        setattr(self, name, bool(data[0]))
        return True

    def set_table(self, data: bytes) -> bool:
        """Replace the addresses that pass: two tables, each a count and its addresses."""
        tables = []
        for _ in range(2):
            count = int.from_bytes(data[:4], "little")
            if len(data) < 4 or count > _MOST_ADDRESSES or len(data) < 4 + 6 * count:
                return False
            tables.append(frozenset(data[4 + 6 * i : 10 + 6 * i] for i in range(count)))
            data = data[4 + 6 * count :]
        if data:
            return False
        self.unicast, self.multicast = tables
        return True

    def set_mac(self, data: bytes) -> bool:
        """Give the card another address."""
        if len(data) != 6 or data[0] & 1:
            return False
        self.mac = data
        return True

    def set_vlan(self, data: bytes, *, add: bool) -> bool:
        """Let a VLAN pass, or not any more."""
        number = int.from_bytes(data, "little")
        if len(data) != 2 or number > 0xFFF:
            return False
        (self.vlans.add if add else self.vlans.discard)(number)
        return True


def _mode(name: str) -> Callable[[CardFilter, bytes], bool]:
    return lambda filter_, data: filter_.set_mode(name, data)


CONTROL_COMMANDS: Mapping[tuple[int, int], Callable[[CardFilter, bytes], bool]] = {
    (0, 0): _mode("promiscuous"),
    (0, 1): _mode("all_multicast"),
    (0, 2): _mode("all_unicast"),
    (0, 3): _mode("no_multicast"),
    (0, 4): _mode("no_unicast"),
    (0, 5): _mode("no_broadcast"),
    (1, 0): lambda filter_, data: filter_.set_table(data),
    (1, 1): lambda filter_, data: filter_.set_mac(data),
    (2, 0): lambda filter_, data: filter_.set_vlan(data, add=True),
    (2, 1): lambda filter_, data: filter_.set_vlan(data, add=False),
}
"""What the control queue's commands do, by class and number."""
