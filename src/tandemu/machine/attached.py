"""The host's side of a machine's attachments, and the devices made of it.

It is opened when the machine starts. The devices are made anew for each life between power-on and
reset.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tandemu.device.pci import DeviceMaker, PciResources, SlotMaker
from tandemu.device.virtio import VirtioDevice, VirtioPci
from tandemu.device.virtio.balloon import Balloon
from tandemu.device.virtio.block import Block
from tandemu.device.virtio.console import Console as VirtioConsole
from tandemu.device.virtio.console import NamedPort
from tandemu.device.virtio.entropy import Entropy
from tandemu.device.virtio.filesystem import FileSystem
from tandemu.device.virtio.mmio import VirtioMmio
from tandemu.device.virtio.vsock import Vsock, listen
from tandemu.host.disk import DiskError, open_image
from tandemu.host.disk.limit import LimitedImage, Limits
from tandemu.host.share import Caching, ShareError, ShareSettings
from tandemu.host.share import Share as FolderServer
from tandemu.machine.attachments import Attachments, Drive, SerialPort, Share
from tandemu.machine.console import Console, Port
from tandemu.machine.errors import MachineError
from tandemu.machine.networks import NetworkOption
from tandemu.memory import GuestMemory

if TYPE_CHECKING:
    from tandemu.machine.cards import Card

_SHARE_QUEUES = 4
"""Queues that a folder is served on, if there are as many processors."""


class Attached:
    """The host's side of a machine's attachments, open from `__init__` to `close`."""

    def __init__(self, attachments: Attachments, cpus: int, console: Console) -> None:
        self.makers: dict[str, DeviceMaker] = {}
        """What makes each device, by the name its state is saved under."""
        self.slots: dict[str, SlotMaker] = {}
        """The same for those that are in slots of the board's instead of on its bus."""
        self.balloon: Balloon | None = None
        """The balloon of the current life, if there is one."""
        self.cards: dict[str, Card] = {}
        """The network cards by name."""
        self._terminal: VirtioConsole | None = None
        self._size = 0, 0
        self._open = contextlib.ExitStack()
        try:
            for number, drive in enumerate(attachments.drives):
                self._add_drive(f"disk{number}", drive)
            for number, share in enumerate(attachments.shares):
                self._add_share(f"share{number}", share, min(cpus, _SHARE_QUEUES))
            if attachments.vsock:
                self._add_vsock(attachments.vsock)
            if "rng" in attachments.devices:
                self._add("rng", Entropy)
            if "console" in attachments.devices or attachments.ports:
                self._add_console(console, attachments.ports)
            if "balloon" in attachments.devices:
                self._add("balloon", self._make_balloon)
            if attachments.networks:
                self._add_networks(attachments.networks)
        except (DiskError, ShareError, OSError) as error:
            self._open.close()
            raise MachineError(str(error)) from error
        except BaseException:
            self._open.close()
            raise

    def _add_drive(self, name: str, drive: Drive) -> None:
        image = open_image(drive.path, drive.format or None, drive.read_only)
        self._open.callback(image.close)
        limits = Limits(
            drive.bytes_per_s, drive.operations_per_s, drive.burst_bytes, drive.burst_operations
        )
        limited = LimitedImage(image, limits) if limits.is_any else None

        def make(memory: GuestMemory) -> VirtioDevice:
            device = Block(
                memory,
                limited or image,
                identity=drive.serial.encode("ascii"),
                read_only=drive.read_only,
                queue_count=drive.queues,
            )
            if limited is not None:
                workers = device.workers.values()
                limited.is_urgent = lambda: any(worker.wanted for worker in workers)
            return device

        if drive.interface == "virtio-mmio":
            self.slots[name] = lambda memory, line: VirtioMmio(make(memory), line)
        else:
            self._add(name, make)

    def _add_share(self, name: str, share: Share, queues: int) -> None:
        recorded = share.owner == "recorded" or (not share.owner and os.geteuid() != 0)
        settings = ShareSettings(share.path, share.read_only, Caching(share.cache), recorded)
        server = FolderServer(settings)
        self._open.callback(server.close)
        tag = share.tag.encode("ascii")
        self._add(name, lambda memory: FileSystem(memory, server, tag, queue_count=queues))

    def _make_balloon(self, memory: GuestMemory) -> Balloon:
        self.balloon = Balloon(memory)
        return self.balloon

    def _listen(self, path: str) -> socket.socket:
        try:
            listener = listen(path)
        except OSError as error:
            raise MachineError(
                f"no socket can be made at {path}: {error.strerror}. If another machine has it, "
                "give this one a path of its own"
            ) from error
        self._open.callback(listener.close)
        self._open.callback(_remove, path)
        return listener

    def _add_console(self, console: Console, ports: Iterable[SerialPort]) -> None:
        named = [NamedPort(port.name, self._listen(port.path)) for port in ports]

        def make(memory: GuestMemory) -> VirtioConsole:
            self._terminal = VirtioConsole(memory, console.transmit, console.feed, named)
            self._terminal.resize(*self._size)
            return self._terminal

        self._add("console", make)

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest of the terminal's size, in this life and those to come."""
        self._size = columns, rows
        if self._terminal is not None:
            self._terminal.resize(columns, rows)

    def port(self, plain: Port) -> Port:
        """Where input goes: to *plain* while a program of the guest's listens there.

        Else to the guest's virtio console, which its kernel opens by itself.
        """
        terminal = self._terminal
        if terminal is None:
            return plain

        def receive(data: bytes) -> int:
            if terminal.listening and not plain.listening():
                return terminal.receive(data)
            return plain.receive(data)

        return Port(receive, lambda: terminal.listening or plain.listening())

    def _add_networks(self, options: Iterable[NetworkOption]) -> None:
        # Most machines have no network: what makes one is loaded for those that do.
        from tandemu.machine.cards import Card
        from tandemu.net.errors import NetError

        for number, option in enumerate(options):
            name = f"net{number}"
            try:
                card = Card(name, number, option)
            except NetError as error:
                raise MachineError(str(error)) from error
            self.cards[name] = card
            self._open.callback(card.close)
            self._add(name, card.make)

    def _add_vsock(self, path: str) -> None:
        listener = self._listen(path)
        self._add("vsock", lambda memory: Vsock(memory, listener, path))

    def _add(self, name: str, make: Callable[[GuestMemory], VirtioDevice]) -> None:
        def on_pci(resources: PciResources) -> VirtioPci:
            return VirtioPci(make(resources.memory), resources.message)

        self.makers[name] = on_pci

    def close(self) -> None:
        """Close everything. No device may be running."""
        self._open.close()


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
