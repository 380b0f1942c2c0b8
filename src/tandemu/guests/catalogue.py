"""The guests Tandemu can put together by itself, each a value."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tandemu.guests.errors import UnknownGuestError
from tandemu.guests.initramfs import (
    NETWORK_SCRIPT,
    SHELL_INIT,
    X86_FINISHER,
    build_initramfs,
    shell_init,
)
from tandemu.guests.initramfs import busybox_of as _busybox_of
from tandemu.guests.modules import CLOUD_STORAGE_MODULES, NETWORK_MODULES, STORAGE_MODULES

_TERMINAL_FAMILIES = {"xterm": "xterm", "screen": "screen", "tmux": "screen"}
"""Terminals that are, but for colours and titles, the one they are named after."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A file of the image that is a file of a package.

    *newest*: of the package that *package* depends on first, as Debian's names for the
    newest kernel do. The one file whose path matches *path*, a pattern, is meant.
    """

    package: str
    path: str
    newest: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """A file of the image that *build* makes out of a file of a package.

    *source* takes the package's file out of what *build* made before, and *text* is what else
    went into it: an image whose text has changed since is built anew from itself.
    """

    package: str
    path: str
    build: Callable[[bytes], bytes] = field(repr=False)
    source: Callable[[bytes], bytes] = field(repr=False)
    text: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Tells one *text* from another."""
        return f"{zlib.crc32(self.text.encode()):08x}"


@dataclass(frozen=True, slots=True)
class BuiltWithModules:
    """A file that *build* makes out of a package's file and *modules* of a kernel.

    *kernel_package* names the newest kernel. The image keeps its text until it is pulled again.
    """

    package: str
    path: str
    kernel_package: str
    modules: tuple[str, ...]
    build: Callable[[bytes, Mapping[str, bytes]], bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RootSystem:
    """A file that is the archive of a whole system: *packages* with all that they need.

    *packages* may hold patterns of apt's. It gets *modules* of the kernel that *kernel_package*
    names the newest of.
    """

    packages: tuple[str, ...]
    kernel_package: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuestRecipe:
    """How a guest image is put together and started.

    *files* maps the image's file names (``kernel``, ``initrd``) to where they come
    from; *append* is its kernel command line; *memory* what it needs at least. *terminals* are
    the kinds of terminal it has descriptions of (`terminal_for`).
    """

    name: str
    summary: str
    architecture: str
    debian_architecture: str
    suite: str
    files: Mapping[str, Copied | Built | BuiltWithModules | RootSystem]
    append: str
    memory: str = "512M"
    terminals: frozenset[str] | None = None
    """None: it does without descriptions, and any kind will do."""

    def terminal_for(self, name: str) -> str:
        """The kind of terminal to tell it for the host's *name*: itself, its family, or empty."""
        if self.terminals is None or name in self.terminals:
            return name
        family = _TERMINAL_FAMILIES.get(name.split("-", maxsplit=1)[0], "")
        return family if family in self.terminals else ""

    @property
    def packages(self) -> list[str]:
        """The packages it takes, each once."""
        sources = self.files.values()
        names = [one.package for one in sources if not isinstance(one, RootSystem)]
        names += [
            one.kernel_package for one in sources if isinstance(one, BuiltWithModules | RootSystem)
        ]
        return list(dict.fromkeys(names))

    @property
    def is_root(self) -> bool:
        """Whether it is a root file system to unpack, not something to boot by itself."""
        return any(isinstance(source, RootSystem) for source in self.files.values())


def _shell_initramfs(busybox: bytes) -> bytes:
    # Not compressed: it is small on disk, and the guest need not unpack it.
    return build_initramfs(busybox=busybox, compress=False)


_X86_SHELL_INIT = shell_init(X86_FINISHER)


def _x86_shell_initramfs(busybox: bytes) -> bytes:
    return build_initramfs(busybox=busybox, init=_X86_SHELL_INIT, compress=False)


def _storage_initramfs(busybox: bytes, modules: Mapping[str, bytes]) -> bytes:
    files = {**modules, "/etc/udhcpc.sh": NETWORK_SCRIPT}
    init = shell_init(network=True)
    return build_initramfs(busybox=busybox, init=init, files=files, compress=False)


def _x86_storage_initramfs(busybox: bytes, modules: Mapping[str, bytes]) -> bytes:
    files = {**modules, "/etc/udhcpc.sh": NETWORK_SCRIPT}
    init = shell_init(X86_FINISHER, network=True)
    return build_initramfs(busybox=busybox, init=init, files=files, compress=False)


_NETBOOT = "debian-installer-13-netboot-riscv64"
_NETBOOT_FOLDER = "usr/lib/debian-installer/images/13/riscv64/text/debian-installer/riscv64"

_RECIPES: tuple[GuestRecipe, ...] = (
    GuestRecipe(
        name="debian-riscv64",
        summary="Debian 13's kernel and a BusyBox shell, RISC-V 64 bit",
        architecture="riscv64",
        debian_architecture="riscv64",
        suite="trixie",
        files={
            "kernel": Copied(_NETBOOT, f"{_NETBOOT_FOLDER}/linux"),
            "initrd": Built(
                "busybox-static", "usr/bin/busybox", _shell_initramfs, _busybox_of, SHELL_INIT
            ),
        },
        append="console=ttyS0 quiet panic=-1",
    ),
    GuestRecipe(
        name="debian-disk-riscv64",
        summary="Debian 13's kernel, drivers for disks, a BusyBox shell, RISC-V 64 bit",
        architecture="riscv64",
        debian_architecture="riscv64",
        suite="trixie",
        files={
            "kernel": Copied("linux-image-riscv64", "boot/vmlinux-*", newest=True),
            "initrd": BuiltWithModules(
                *("busybox-static", "usr/bin/busybox", "linux-image-riscv64"),
                STORAGE_MODULES,
                _storage_initramfs,
            ),
        },
        append="console=ttyS0 quiet panic=-1",
    ),
    GuestRecipe(
        name="debian-installer-riscv64",
        summary="The text installer of Debian 13, RISC-V 64 bit",
        architecture="riscv64",
        debian_architecture="riscv64",
        suite="trixie",
        files={
            "kernel": Copied(_NETBOOT, f"{_NETBOOT_FOLDER}/linux"),
            "initrd": Copied(_NETBOOT, f"{_NETBOOT_FOLDER}/initrd.gz"),
        },
        append="console=ttyS0 panic=-1",
        memory="1G",
        terminals=frozenset({"ansi", "bterm", "dumb", "linux", "screen", "vt102", "xterm"}),
    ),
    GuestRecipe(
        name="debian-amd64",
        summary="Debian 13's cloud kernel and a BusyBox shell, x86 64 bit",
        architecture="x86_64",
        debian_architecture="amd64",
        suite="trixie",
        files={
            "kernel": Copied("linux-image-cloud-amd64", "boot/vmlinuz-*", newest=True),
            "initrd": Built(
                "busybox-static",
                "usr/bin/busybox",
                _x86_shell_initramfs,
                _busybox_of,
                _X86_SHELL_INIT,
            ),
        },
        append="console=ttyS0 quiet panic=-1",
    ),
    GuestRecipe(
        name="debian-disk-amd64",
        summary="Debian 13's cloud kernel, drivers for disks, a BusyBox shell, x86 64 bit",
        architecture="x86_64",
        debian_architecture="amd64",
        suite="trixie",
        files={
            "kernel": Copied("linux-image-cloud-amd64", "boot/vmlinuz-*", newest=True),
            "initrd": BuiltWithModules(
                *("busybox-static", "usr/bin/busybox", "linux-image-cloud-amd64"),
                CLOUD_STORAGE_MODULES,
                _x86_storage_initramfs,
            ),
        },
        append="console=ttyS0 quiet panic=-1",
    ),
)

_SYSTEM = (
    *("?essential", "apt", "debian-archive-keyring", "init", "systemd-sysv"),
    *("dbus", "udev", "kmod", "mount", "passwd", "login", "e2fsprogs", "procps", "less"),
    *("iproute2", "iputils-ping", "netbase", "systemd-resolved"),
)


def _system(architecture: str, debian: str, kernel_package: str) -> GuestRecipe:
    modules = (*STORAGE_MODULES, *NETWORK_MODULES)
    return GuestRecipe(
        name=f"debian-{debian}-root",
        summary=f"A Debian 13 system to unpack: systemd, apt, network tools, {debian}",
        architecture=architecture,
        debian_architecture=debian,
        suite="trixie",
        files={"root": RootSystem(_SYSTEM, kernel_package, modules)},
        append="",
    )


_RECIPES += (
    _system("riscv64", "riscv64", "linux-image-riscv64"),
    _system("x86_64", "amd64", "linux-image-cloud-amd64"),
)

RECIPES: Mapping[str, GuestRecipe] = {recipe.name: recipe for recipe in _RECIPES}
DEFAULT_GUESTS: Mapping[str, str] = {"riscv64": "debian-riscv64", "x86_64": "debian-amd64"}
"""Architecture to the guest that is run when none is named."""
DISK_GUESTS: Mapping[str, str] = {
    **DEFAULT_GUESTS,
    "riscv64": "debian-disk-riscv64",
    "x86_64": "debian-disk-amd64",
}
"""The same for a machine with disks and other devices whose drivers are modules."""


def find_recipe(name: str) -> GuestRecipe:
    """The recipe called *name*; `UnknownGuestError` with the nearest names where there is none."""
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, 1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UnknownGuestError(
        f"there is no guest called {name!r}.{hint} The guests are: {', '.join(RECIPES)}"
    )
