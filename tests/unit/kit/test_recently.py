"""What has happened within the last seconds."""

from pacs_server.kit.recently import Recently


def test_keys_are_forgotten_by_age_and_number() -> None:
    now = [100.0]
    recent = Recently(60.0, 2, clock=lambda: now[0])
    assert "a" not in recent
    recent.add("a")
    now[0] = 159.9
    assert "a" in recent
    now[0] = 160.0
    assert "a" not in recent
    for key in "bcb":
        recent.add(key)
    recent.add("d")
    # The one that was added longest ago has made room.
    assert [key in recent for key in "abcd"] == [False, True, False, True]
