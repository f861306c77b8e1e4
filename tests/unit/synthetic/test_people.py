"""Names in all scripts come back as they were written, and are drawn in Latin letters."""

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

from pacs_server.synthetic import font
from pacs_server.synthetic.people import SCRIPTS
from pacs_server.testing import synthetic


def test_names_and_hospitals_of_every_character_set_come_back() -> None:
    for charset, script in SCRIPTS.items():
        for name, _ in script.names:
            (ds,) = synthetic.ct(1, size=16, charset=charset, patient=name)
            buffer = BytesIO()
            ds.save_as(buffer, enforce_file_format=True)
            read = dcmread(BytesIO(buffer.getvalue()))
            assert (str(read.PatientName), read.InstitutionName) == (name, script.hospital), charset


def test_several_character_sets_in_one_name() -> None:
    (ds,) = synthetic.ct(1, size=16, charset="ISO 2022 IR 100\\ISO 2022 IR 144", patient="Müller^Анна")
    assert ds.SpecificCharacterSet == ["ISO 2022 IR 100", "ISO 2022 IR 144"]


@pytest.mark.parametrize(
    ("name", "drawn"),
    [("Núñez Begoña", "NUNEZ BEGONA"), ("Щукин Пётр", "SHCHUKIN PETR"), ("Γιώργος Θ", "GIORGOS TH"), ("山田", "")],
)
def test_names_are_drawn_in_latin_letters(name: str, drawn: str) -> None:
    assert font.drawable(name) == drawn


def test_small_pictures_have_the_first_words_of_the_first_lines() -> None:
    small, same = (np.zeros((64, 64), np.uint8) for _ in range(2))
    font.draw(small, ["PETROVA ANNA", "SYN-4", "CT CHEST"], (255, 0))
    font.draw(same, ["PETROVA", "SYN-4"], (255, 0))
    assert np.array_equal(small, same)


def test_text_stays_within_the_picture() -> None:
    for shape in ((16, 16), (400, 400), (20, 20, 3)):
        picture = np.full(shape, 7, np.uint8)
        font.draw(picture, ["LONG LINE OF TEXT", "ANOTHER"], (255, 0))
        font.draw(picture, ["12/345"], (255, 0), bottom=True)
        assert set(np.unique(picture)) == {0, 7, 255}
