"""Bytes that were asked for last."""

from pacs_server.kit.recent_bytes import RecentBytes


def test_what_was_not_asked_for_longest_is_forgotten() -> None:
    recent = RecentBytes(100)
    for key in "abc":
        recent.put(key, bytes(33))
    assert recent.get("a") == bytes(33)
    recent.put("d", bytes(33))
    assert [key for key in "abcd" if recent.get(key) is not None] == ["a", "c", "d"]


def test_what_is_put_again_counts_once() -> None:
    recent = RecentBytes(100)
    for size in (90, 10, 40):
        recent.put("a", bytes(size))
    recent.put("b", bytes(60))
    assert (recent.get("a"), recent.get("b")) == (bytes(40), bytes(60))


def test_what_is_larger_than_the_limit_is_not_kept_and_displaces_only_what_it_replaces() -> None:
    recent = RecentBytes(100)
    recent.put("a", bytes(40))
    recent.put("b", bytes(60))
    recent.put("a", bytes(101))
    assert (recent.get("a"), recent.get("b")) == (None, bytes(60))
    recent.put("c", bytes(40))
    assert (recent.get("b"), recent.get("c")) == (bytes(60), bytes(40))
