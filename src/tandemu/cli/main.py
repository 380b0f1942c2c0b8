"""The command ``tandemu``: parse, run the command, turn errors into one paragraph.

A command's module is imported when the command was chosen. Errors of Tandemu's layers
say themselves what, why and how to mend it; ``TANDEMU_DEBUG=1`` shows the traceback.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from tandemu.cli import streams

ERROR_STATUS = 1
USAGE_STATUS = 2
INTERRUPTED_STATUS = 130
_WIDTH = 96


def _is_ours(error: BaseException) -> bool:
    """Whether *error* is one whose message is meant for the user."""
    return any(kind.__module__.startswith("tandemu.") for kind in type(error).__mro__)


def _say(message: str) -> None:
    """Print one paragraph on the standard error output."""
    import textwrap

    lines = textwrap.wrap(
        f"tandemu: {message}", _WIDTH, subsequent_indent="    ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    print("\n".join(lines), file=sys.stderr, flush=True)


def _run(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["exec"]:
        # Read without argparse: what follows the program is the program's.
        from tandemu.cli import exec as exec_command

        return exec_command.main(words[1:])
    # Only exec does without it, and its start must be quick.
    from tandemu.cli.parser import make_parser

    options = make_parser().parse_args(arguments)
    if options.command == "run":
        # What a start makes lives to the end: looking for garbage in it costs 6 ms of 90. `run`
        # has it looked for again once the machine is on.
        gc.disable()
        try:
            from tandemu.cli.run import run

            return run(options)
        finally:
            gc.enable()
    if options.command == "guests":
        from tandemu.cli.guests import guests

        return guests(options)
    if options.command == "disk":
        from tandemu.cli.disk import disk

        return disk(options)
    if options.command == "completion":
        from tandemu.cli.completion import completion

        return completion(options.shell)
    from tandemu.cli.doctor import doctor

    return doctor()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (default: the process's); return the exit status."""
    if arguments is None:
        streams.prepare()
    try:
        try:
            status = _run(arguments)
        except SystemExit as exit:  # argparse: help was shown, or an option was wrong
            status = exit.code if isinstance(exit.code, int) else ERROR_STATUS
        streams.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    except BrokenPipeError:  # nobody reads our output any more
        if arguments is None:
            streams.die_of_broken_pipe()
        streams.drop()
        return ERROR_STATUS
    except Exception as error:
        if os.environ.get("TANDEMU_DEBUG"):
            raise
        if isinstance(error, OSError) and error is streams.lost():
            try:
                streams.flush()
            except OSError as better:
                error = better
        from tandemu.host.shortage import explain

        if limit := explain(error):
            _say(limit)
        elif _is_ours(error) or isinstance(error, OSError):
            _say(str(error))
            if getattr(error, "is_usage", False):
                return USAGE_STATUS
        else:
            _say(
                f"an error in Tandemu itself: {type(error).__name__}: {error}. With "
                "TANDEMU_DEBUG=1 in the environment it shows where; please report it"
            )
        return ERROR_STATUS
