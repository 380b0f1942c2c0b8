"""The monitor's prompt: a line that can be edited, a history, and commands with arguments.

It takes keys one byte at a time and writes what they do to the screen, whatever terminal is behind.
Keys are those of Emacs and of shells, save Ctrl-A, which is the console's; `HELP` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tandemu.bits import Record

PROMPT = "(tandemu) "
HELP = """\
Arrows, Home, End, Ctrl-B F E  move         Up, Down, Ctrl-P N  earlier and later lines
Backspace, Delete, Ctrl-D      delete       Ctrl-U K W          delete line, to its end, word
Tab                            complete     Ctrl-C              new line
"""
_LONGEST_LINE = 200
_LONGEST_HISTORY = 200
_LONGEST_SEQUENCE = 8
_SEQUENCES = {
    b"[A": "up", b"OA": "up", b"[B": "down", b"OB": "down", b"[C": "right", b"OC": "right",
    b"[D": "left", b"OD": "left", b"[H": "home", b"OH": "home", b"[1~": "home", b"[7~": "home",
    b"[F": "end", b"OF": "end", b"[4~": "end", b"[8~": "end", b"[3~": "delete",
}  # fmt: skip
_CONTROLS = {
    0x02: "left", 0x03: "interrupt", 0x04: "delete or leave", 0x05: "end", 0x06: "right",
    0x08: "backspace", 0x09: "complete", 0x0A: "enter", 0x0B: "kill to end", 0x0C: "clear",
    0x0D: "enter", 0x0E: "down", 0x10: "up", 0x15: "kill line", 0x17: "kill word",
    0x7F: "backspace",
}  # fmt: skip


class CommandError(Exception):
    """A command cannot be carried out as it was typed; the message says why."""


class Command(Record):
    """A command of the monitor: what it does in a few words, and what prints its answer.

    *run* takes the words behind the name, which *arguments* describes; without that there are
    none. *leaves*: the prompt is left after it.
    """

    summary: str
    run: Callable[[list[str]], str]
    arguments: str = ""
    leaves: bool = False


class Monitor:
    """A prompt. *say* writes on the screen, *leave* is called when it is to be left.

    *columns* tells how wide the screen is.
    """

    def __init__(
        self,
        commands: Mapping[str, Command],
        say: Callable[[str], None],
        leave: Callable[[], None],
        columns: Callable[[], int],
    ) -> None:
        self._commands = {
            "help": Command("this list", self._list),
            **commands,
        }
        self._say, self._leave, self._columns = say, leave, columns
        self._history: list[str] = []
        self._begin()
        self._sequence: bytearray | None = None

    def _begin(self) -> None:
        self._line, self._cursor = "", 0
        self._place = len(self._history)
        self._draft = ""

    def enter(self) -> None:
        """Show the prompt with an empty line."""
        self._begin()
        self._say(PROMPT)

    # ---- keys ----------------------------------------------------------------------------

    def key(self, byte: int) -> None:
        """Take a byte that was typed."""
        if self._sequence is not None:
            self._continue(byte)
        elif byte == 0x1B:
            self._sequence = bytearray()
        elif byte in _CONTROLS:
            self._act(_CONTROLS[byte])
        elif 0x20 <= byte < 0x7F:
            self._insert(chr(byte))

    def _continue(self, byte: int) -> None:
        """The next byte of what a key sends that is no character."""
        sequence = self._sequence
        assert sequence is not None
        sequence.append(byte)
        begun = len(sequence) == 1 and byte in b"[O"
        inside = len(sequence) > 1 and not 0x40 <= byte < 0x7F
        if (begun or inside) and len(sequence) < _LONGEST_SEQUENCE:
            return
        self._sequence = None
        if bytes(sequence) in _SEQUENCES:
            self._act(_SEQUENCES[bytes(sequence)])

    def _insert(self, text: str) -> None:
        if len(self._line) + len(text) > _LONGEST_LINE:
            return
        at_end = self._cursor == len(self._line)
        self._line = self._line[: self._cursor] + text + self._line[self._cursor :]
        self._cursor += len(text)
        if at_end and len(PROMPT) + len(self._line) < self._columns():
            self._say(text)
        else:
            self._draw()

    def _set(self, line: str, cursor: int) -> None:
        self._line, self._cursor = line, cursor
        self._draw()

    def _draw(self) -> None:
        """The line anew: as much of it as fits, with the cursor in its place."""
        room = max(self._columns() - len(PROMPT) - 1, 8)
        first = max(self._cursor - room + 1, 0) if len(self._line) >= room else 0
        shown = self._line[first : first + room]
        back = len(shown) - (self._cursor - first)
        self._say(f"\r{PROMPT}{shown}\x1b[K" + (f"\x1b[{back}D" if back else ""))

    def _act(self, action: str) -> None:
        line, cursor = self._line, self._cursor
        match action:
            case "left":
                self._set(line, max(cursor - 1, 0))
            case "right":
                self._set(line, min(cursor + 1, len(line)))
            case "home":
                self._set(line, 0)
            case "end":
                self._set(line, len(line))
            case "backspace" if cursor:
                self._set(line[: cursor - 1] + line[cursor:], cursor - 1)
            case "delete" if cursor < len(line):
                self._set(line[:cursor] + line[cursor + 1 :], cursor)
            case "delete or leave":
                if line:
                    self._act("delete")
                else:
                    self._leave()
            case "kill line":
                self._set(line[cursor:], 0)
            case "kill to end":
                self._set(line[:cursor], cursor)
            case "kill word":
                start = len(line[:cursor].rstrip().rpartition(" ")[0])
                start += 1 if start else 0
                self._set(line[:start] + line[cursor:], start)
            case "clear":
                self._say("\x1b[H\x1b[2J")
                self._draw()
            case "interrupt":
                self._say("\n")
                self.enter()
            case "up":
                self._recall(self._place - 1)
            case "down":
                self._recall(self._place + 1)
            case "complete":
                self._complete()
            case "enter":
                self._say("\n")
                self._carry_out(line.strip())

    def _recall(self, place: int) -> None:
        if not 0 <= place <= len(self._history):
            return
        if self._place == len(self._history):
            self._draft = self._line
        self._place = place
        line = self._history[place] if place < len(self._history) else self._draft
        self._set(line, len(line))

    def _complete(self) -> None:
        word = self._line[: self._cursor]
        names = [name for name in self._commands if name.startswith(word)] if word else []
        if len(names) == 1:
            self._insert(names[0][len(word) :] + " ")
        elif names:
            common = _common_start(names)
            if common != word:
                self._insert(common[len(word) :])
            else:
                self._say("\n" + "  ".join(names) + "\n")
                self._draw()

    # ---- commands ------------------------------------------------------------------------

    def _carry_out(self, text: str) -> None:
        if text and (not self._history or self._history[-1] != text):
            self._history.append(text)
            del self._history[:-_LONGEST_HISTORY]
        if text:
            try:
                command, words = self._find(text)
                answer = command.run(words)
            except Exception as error:
                # Whatever it is, the keyboard goes on being read.
                command, answer = None, str(error) or type(error).__name__
            if answer:
                self._say(answer.rstrip("\n") + "\n")
            if command is not None and command.leaves:
                self._leave()
                return
        self.enter()

    def _find(self, text: str) -> tuple[Command, list[str]]:
        """The command that *text* names, by its begin if that is one's alone, and its words."""
        name, *words = text.split()
        names = [one for one in self._commands if one == name] or [
            one for one in self._commands if one.startswith(name)
        ]
        if not names:
            raise CommandError(f"{name!r} is no command here; 'help' lists them")
        if len(names) > 1:
            raise CommandError(f"{name!r} is no command here, but {' and '.join(names)} are")
        command = self._commands[names[0]]
        if words and not command.arguments:
            raise CommandError(f"{names[0]} takes nothing behind it")
        return command, words

    def _list(self, words: list[str]) -> str:
        rows = [
            (f"{name} {command.arguments}".rstrip(), command.summary)
            for name, command in self._commands.items()
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {summary}" for name, summary in rows) + f"\n\n{HELP}"


def _common_start(names: list[str]) -> str:
    first, last = min(names), max(names)
    count = 0
    while count < len(first) and first[count] == last[count]:
        count += 1
    return first[:count]
