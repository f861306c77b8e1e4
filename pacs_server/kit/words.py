"""Numbers with their nouns, for sentences that people read."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: `1 study`, `2 studies`; without `plural`, the plural is the noun with an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"
