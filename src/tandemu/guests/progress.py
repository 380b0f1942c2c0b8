"""How long work tells where it stands; a surface decides how that looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives steps; between two `step` calls `advance` may be called often."""

    def step(self, text: str) -> None:
        """A new step begins."""

    def advance(self, done: int, total: int) -> None:
        """*done* of *total* bytes of the current step are there."""


class Silent:
    """Shows nothing."""

    def step(self, text: str) -> None:
        """Ignore it."""

    def advance(self, done: int, total: int) -> None:
        """Ignore it."""
