"""`pacs-server key`: keys are printed once, listed without their secrets, and revoked."""

from typing import Any

import pytest


def test_a_key_is_printed_once(run: Any) -> None:
    made = run("key", "create", "--name", "scripts", "--role", "reader", "--modality", "CT", "--patient", "4711")
    assert made[0] == 0
    assert made[2] == "key scripts made; it is not shown again\n"
    code, (titles, row), _ = run.lines("key", "list")
    assert code == 0
    shown = dict(zip(titles.split("\t"), row.split("\t"), strict=True))
    assert made[1].strip() not in row
    assert [shown[name] for name in ("NAME", "ROLE", "LIMITS", "STATE", "LAST USED")] == [
        *("scripts", "reader", "modality CT; patient 4711", "working", "-"),
    ]
    assert run("key", "revoke", "scripts") == (0, "key scripts revoked\n", "")
    assert "\trevoked\t" in run("key", "list")[1]
    assert run("key", "revoke", "scripts") == (1, "", "pacs-server: there is no key scripts\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--expires", "soon"), "--expires: "),
        (("--expires", "0s"), "--expires: "),
        (("--expires", "9000d"), "--expires: '9000d' is longer than ten years"),
        (("--role", "boss"), "a role is one of"),
        (("--role", "administrator", "--ae", "CT1"), "only a reader or contributor can have limits"),
    ],
)
def test_what_no_key_can_have_makes_none(run: Any, arguments: tuple[str, ...], says: str) -> None:
    code, out, err = run("key", "create", "--name", "scripts", *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert run("key", "list")[1].count("\n") == 1
