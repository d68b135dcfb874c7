"""Cards for people, and comparisons that they allow."""

from collections.abc import Mapping

from consistency.metrics.card import Card, shown


def card_table(cards: Mapping[str, Card]) -> str:
    """Markdown: what all cards share once, and a column per card for the rest.

    Args:
        cards: by name.
    """
    rows = {name: row(card) for name, card in cards.items()}
    keys = dict.fromkeys(key for r in rows.values() for key in r)
    shared = [key for key in keys if len({r.get(key, "") for r in rows.values()}) == 1]
    own = [key for key in keys if key not in shared]
    first = next(iter(rows.values()))
    lines = [["protocol", "all"], ["---", "---"], *([key, first[key]] for key in shared)]
    parts = ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
    if own:
        head = [["", *rows], ["---"] * (len(rows) + 1)]
        lines = [*head, *([key, *(r.get(key, "") for r in rows.values())] for key in own)]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def row(card: Card) -> dict[str, str]:
    """All of a card as text."""
    everything = {**card.model, **card.protocol, **card.code, "commit": card.commit}
    return {key: text(value) for key, value in everything.items()}


def text(value: object) -> str:
    """A value of a card; levels with four digits."""
    if isinstance(value, list):
        return ", ".join(f"{x:.4g}" for x in value)
    return shown(value)
