"""What the generated system calls ask of a guest architecture."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from tandemu.bits import Layout
from tandemu.ir import Builder, Value
from tandemu.linux.native.frames import AlternateStack


class GuestAbi(Protocol):
    """The module of one architecture, `native.<its name>`."""

    REGISTERS: Layout
    """The beginning of an engine's state."""
    RESULT: int
    """The register of a call's first argument and its result …"""
    CALL_SIZE: int
    """… and the bytes of the instruction."""
    STACK_POINTER: int
    FRAME_SIZE: int
    """Of a struct rt_sigframe."""

    def build_frame(
        self,
        b: Builder,
        state: Any,
        frame: Value,
        information: Value,
        alternate: AlternateStack,
        mask: Value,
    ) -> None:
        """Make a struct rt_sigframe at host address *frame*; *alternate* is sp, flags and size."""

    def enter_handler(
        self, state: Any, frame: Value, handler: Value, signal: Value, trampoline: Value
    ) -> None:
        """handler(signal, &siginfo, &ucontext), which returns to *trampoline*."""

    def read_frame(self, b: Builder, state: Any, frame: Value) -> tuple[Value, AlternateStack]:
        """Restore the registers from a frame: its mask and alternate stack."""

    def open_flags(self, flags: Value) -> Value:
        """The host's flags of open(2) for the guest's; and the guest's for the host's."""


def guest_abi(architecture: str) -> GuestAbi:
    """The module of *architecture*."""
    return cast("GuestAbi", import_module(f"tandemu.linux.native.{architecture}"))
