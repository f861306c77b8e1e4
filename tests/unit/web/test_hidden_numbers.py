"""Ids of rows as callers with limits see them."""

import random
from itertools import pairwise

from restapi import LIMITED

from pacs_server.dicom.scope import EVERYTHING
from pacs_server.web.api.hidden_numbers import inward, outward


def test_hidden_numbers_are_turned_back_and_fit_a_browser() -> None:
    numbers = [1, 2, 3, 98, 1 << 26, (1 << 26) + 1, (1 << 40) - 1]
    hidden = [outward(number, LIMITED) for number in numbers]
    assert [inward(number, LIMITED) for number in hidden] == numbers
    assert all(0 < number < 1 << 53 for number in hidden)
    assert len(set(hidden)) == len(numbers)


def test_hidden_numbers_tell_no_order() -> None:
    hidden = [outward(number, LIMITED) for number in range(1, 1001)]
    rising = sum(one < other for one, other in pairwise(hidden))
    assert 350 < rising < 650


def test_made_up_numbers_are_none() -> None:
    made_up = [random.randrange(1, 1 << 52) for _ in range(1000)]
    assert sum(inward(number, LIMITED) is not None for number in made_up) < 20
    for number in (-1, 0, (1 << 52) + 1, (1 << 63) - 1):
        assert inward(number, LIMITED) is None


def test_who_has_no_limits_sees_plain_numbers() -> None:
    assert (outward(98, EVERYTHING), inward(98, EVERYTHING)) == (98, 98)
