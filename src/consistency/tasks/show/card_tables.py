"""Tables of cards, for reports and Markdown files."""

from collections.abc import Mapping

from consistency.metrics.card import Card, hash_or_text
from consistency.table import Table


def card_tables(cards: Mapping[str, Card]) -> list[Table]:
    """A table of the entries that differ, a column per card (if any differ), and one of those that all share.

    Args:
        cards: at least one, by name.
    """
    rows = {name: card_cells(card) for name, card in cards.items()}
    keys = dict.fromkeys(key for r in rows.values() for key in r)
    shared = [key for key in keys if len({r.get(key, "") for r in rows.values()}) == 1]
    own = [key for key in keys if key not in shared]
    first = next(iter(rows.values()))
    tables = [Table(["protocol", "all"], [[key, first[key]] for key in shared])]
    if own:
        lines = [[key, *(r.get(key, "") for r in rows.values())] for key in own]
        tables.insert(0, Table(["", *rows], lines))
    return tables


def card_cells(card: Card) -> dict[str, str]:
    """All entries of a card as text, by key."""
    everything = {**card.model, **card.protocol, **card.code, "commit": card.commit}
    return {key: card_text(value) for key, value in everything.items()}


def card_text(value: object) -> str:
    """A value of a card as text: lists of noise levels with four digits, hashes shortened."""
    if isinstance(value, list):
        return ", ".join(f"{x:.4g}" for x in value)
    return hash_or_text(value)
