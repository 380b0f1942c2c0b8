"""The monitor's commands for a machine's network cards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tandemu.host import Command, CommandError
from tandemu.machine import Machine

if TYPE_CHECKING:
    from tandemu.machine.cards import Card

_LINES_SHOWN = 10


def network_commands(machine: Machine) -> dict[str, Command]:
    """What can be asked of the cards of *machine*; nothing if it has none."""
    if not machine.attachments.networks:
        return {}

    def with_card(words: list[str], what: str) -> tuple[Card, str]:
        if len(words) != 2:
            raise CommandError(f"a card's name and {what} are needed")
        if words[0] not in machine.cards:
            raise CommandError(f"no card is called {words[0]!r}: {', '.join(machine.cards)}")
        return machine.cards[words[0]], words[1]

    def command(
        summary: str, arguments: str, what: str, action: Callable[[Card, str], None]
    ) -> Command:
        def run(words: list[str]) -> str:
            action(*with_card(words, what))
            return ""

        return Command(summary, run, arguments)

    return {
        "net": Command("the network cards: counters, forwards, what was refused", _show(machine)),
        "forward": command(
            "forward a port to the guest", "NAME PORT-PORT", "ports such as 8080-80",
            lambda card, word: card.add_forward(word),
        ),
        "unforward": command(
            "forward it no more", "NAME PORT-PORT", "ports as 'net' shows them",
            lambda card, word: card.remove_forward(word),
        ),
        "link": command("plug the cable in or out", "NAME up|down", "up or down", _set_link),
        "capture": command(
            "write all frames to a file or pipe", "NAME FILE|off", "a file or off",
            lambda card, word: card.capture(None if word == "off" else word),
        ),
        "limit": command(
            "limit the rate in each direction, 0: not", "NAME BYTES", "bytes a second", _set_limit
        ),
    }  # fmt: skip


def _show(machine: Machine) -> Callable[[list[str]], str]:
    def run(words: list[str]) -> str:
        lines = []
        for name, card in machine.cards.items():
            state = "up" if card.link_up else "down"
            lines.append(
                f"{name}: {card.mac.hex(':')}, link {state}, mtu {card.option.packet_bytes}"
            )
            counted = card.statistics().items()
            lines.append("  " + ", ".join(f"{key} {value}" for key, value in counted if value))
            if card.option.kind == "user":
                lines += [f"  forward {forward}" for forward in card.forwards]
                lines += [f"  refused: {line}" for line in card.refusals[-_LINES_SHOWN:]]
        return "\n".join(lines)

    return run


def _set_link(card: Card, word: str) -> None:
    if word not in ("up", "down"):
        raise CommandError(f"link {word}: must be up or down")
    card.link_up = word == "up"


def _set_limit(card: Card, word: str) -> None:
    if not word.isascii() or not word.isdigit():
        raise CommandError(f"{word!r} is no number of bytes a second")
    card.limit(int(word))
