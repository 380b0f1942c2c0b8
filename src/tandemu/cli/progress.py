"""Progress of long work: a bar on a terminal, a line per step elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Lines:
    """A line per step, for logs and pipes."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def step(self, text: str) -> None:
        """Print the step."""
        print(f"{text} ...", file=sys.stderr, flush=True)

    def advance(self, done: int, total: int) -> None:
        """Nothing: a line per percent would fill a log."""


class Bar:
    """A live bar on the terminal, with a line left standing for each finished step."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._text = ""
        self._begun_s = 0.0

    def __enter__(self) -> Bar:
        return self

    def _started(self) -> Progress:
        """The bar, made when there is something to show: importing rich takes a while."""
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                DownloadColumn(),
                TransferSpeedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self._bar

    def _finish(self, mark: str) -> None:
        if self._bar is not None and self._task is not None:
            seconds = time.monotonic() - self._begun_s
            self._bar.console.print(
                f"{mark} {self._text} [dim]{seconds:.1f} s[/dim]", highlight=False
            )
            self._bar.remove_task(self._task)
            self._task = None

    def step(self, text: str) -> None:
        """Finish the last step and begin this one."""
        bar = self._started()
        self._finish("[green]✓[/green]")
        self._text, self._begun_s = text, time.monotonic()
        self._task = bar.add_task(text, total=None)

    def advance(self, done: int, total: int) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish("[red]✗[/red]" if error is not None else "[green]✓[/green]")
        if self._bar is not None:
            self._bar.stop()


def make_progress() -> Bar | Lines:
    """A bar if the standard error output is a terminal, else lines."""
    return Bar() if sys.stderr.isatty() else Lines()
