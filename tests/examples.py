"""How many examples of Hypothesis a test tries that needs a number of its own: more or fewer by the profile."""

from hypothesis import settings


def of(number: int) -> int:
    """So many under a profile of 100 examples, fewer or more under others, but two at least."""
    return max(2, number * settings().max_examples // 100)
