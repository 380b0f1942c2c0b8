"""A machine's network cards while it runs: what can be seen of them and changed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable

from tandemu.device.virtio.net import NetworkCard
from tandemu.machine.errors import MachineError
from tandemu.machine.networks import NetworkOption
from tandemu.memory import GuestMemory
from tandemu.net.capture import Capture
from tandemu.net.errors import NetError
from tandemu.net.frames import CableNetwork, TapNetwork
from tandemu.net.link import Network
from tandemu.net.policy import Policy, parse_rule
from tandemu.net.traffic import Limiter, Traffic
from tandemu.net.user import Plan, UserNetwork
from tandemu.net.user.plan import parse_forward

_OWN_PREFIX = bytes.fromhex("5254006d")


class Card:
    """One card, called *name*, from the machine's start to its end.

    All may be called from any thread; each change is made while the card rests.
    """

    def __init__(self, name: str, number: int, option: NetworkOption) -> None:
        self.name, self.option = name, option
        self.mac = (
            bytes.fromhex(option.mac.replace(":", "")) if option.mac else _usual_mac(number, option)
        )
        self._device: NetworkCard | None = None
        self._down = not option.link_up
        self.network = _make_network(option)
        limits = option.rate_bytes_per_s, option.burst_bytes
        try:
            self._traffic = Traffic(name, Limiter(*limits), Limiter(*limits))
            if option.capture:
                self._traffic.set_capture(Capture(option.capture, name, option.rotate_bytes))
        except BaseException:
            self.network.close()
            raise

    def _user(self) -> UserNetwork:
        if not isinstance(self.network, UserNetwork):
            raise MachineError(
                f"{self.name} is a network of kind {self.option.kind}: forwards and rules are for "
                "the kind user"
            )
        return self.network

    def make(self, memory: GuestMemory) -> NetworkCard:
        """The device of a life that begins."""
        device = NetworkCard(memory, self.network, self.mac, self._traffic)
        device.link_down = int(self._down)
        self._device = device
        return device

    def _change(self, action: Callable[[], None]) -> None:
        try:
            if self._device is None:
                action()
            else:
                self._device.at_rest(action)
        except NetError as error:
            raise MachineError(str(error)) from error

    # What can be changed -------------------------------------------------------------------

    @property
    def link_up(self) -> bool:
        """Whether the cable is plugged in; may be set."""
        return not self._down

    @link_up.setter
    def link_up(self, up: bool) -> None:
        self._down = not up
        if self._device is not None:
            self._device.set_link(up=up)

    @property
    def forwards(self) -> tuple[str, ...]:
        """What is forwarded to the guest, as `add_forward` takes it."""
        return tuple(str(one) for one in self._user().forwards)

    def add_forward(self, text: str) -> None:
        """Forward ``[tcp:|udp:][ADDRESS:]PORT-[ADDRESS:]PORT`` as well."""
        self._change(lambda: self._user().add_forward(parse_forward(text)))

    def remove_forward(self, text: str) -> None:
        """Forward it no more."""
        self._change(lambda: self._user().remove_forward(parse_forward(text)))

    def capture(self, path: str | None, rotate_bytes: int = 0) -> None:
        """Write all frames to a pcapng file or pipe from now on; None ends it."""

        def change() -> None:
            new = None if path is None else Capture(path, self.name, rotate_bytes)
            self._traffic.set_capture(new)

        self._change(change)

    def limit(self, bytes_per_s: int, burst_bytes: int = 0) -> None:
        """Limit the rate in each direction; 0 ends the limit."""
        if bytes_per_s < 0 or burst_bytes < 0:
            raise MachineError(f"a rate of {bytes_per_s} bytes a second: must not be negative")

        def change() -> None:
            limits = bytes_per_s, burst_bytes
            self._traffic.set_limits(Limiter(*limits), Limiter(*limits))

        self._change(change)
        if self._device is not None:
            for queue in range(2):
                self._device.kick(queue)

    @property
    def refusals(self) -> tuple[str, ...]:
        """The last things that the policy refused, a line each."""
        return tuple(self._user().policy.log)

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return {**self._traffic.statistics(), **self.network.statistics()}

    def close(self) -> None:
        """Give back what is the host's."""
        self._traffic.close()
        self.network.close()


def _usual_mac(number: int, option: NetworkOption) -> bytes:
    """An address for card *number*: on a network with others, one that no other end has."""
    if option.kind == "user":
        return _OWN_PREFIX + (number + 1).to_bytes(2, "big")
    place = os.path.abspath(option.local) if option.local else option.interface
    return _OWN_PREFIX[:3] + zlib.crc32(os.fsencode(place)).to_bytes(4, "big")[1:]


def _make_network(option: NetworkOption) -> Network:
    """The network that *option* asks for; `NetError` if it cannot be."""
    if option.kind == "tap":
        return TapNetwork(option.interface, option.packet_bytes)
    if option.kind == "socket":
        return CableNetwork(option.local, option.remote, option.packet_bytes)
    net = option.network
    plan = Plan(
        guest4=net[min(15, net.num_addresses - 2)].packed, gateway4=net[2].packed,
        dns4=net[3].packed, bits4=net.prefixlen, mtu=option.packet_bytes, ipv6=option.ipv6,
        host_loopback=option.host_loopback, host_name=option.host_name,
    )  # fmt: skip
    policy = Policy(tuple(parse_rule(*rule) for rule in option.rules))
    return UserNetwork(plan, policy, [parse_forward(text) for text in option.forwards])
