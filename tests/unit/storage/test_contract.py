"""What every storage promises: each test runs against every implementation, and assumes no paths, links or times.

To have it run against another implementation, add a kind to `STORAGES` in tests/storages.py.
"""

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import examples
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storages import Implementation

from pacs_server.dicom.header import Header
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import InvalidKey, ObjectExists, ObjectNotFound, StorageUnavailable
from pacs_server.storage.contract import Storage
from pacs_server.storage.keys import NAMINGS, RESERVED, instance_key

MakeStorage = Callable[[], Implementation]
DATA = random.Random(1).randbytes(300_001)

NO_KEYS = ["", ".", "..", "/", "/a", "a/", "a//b", "./a", "a/.", "../a", "a/../b", "a/..", "a\0b", "a/" + "n" * 256]
ODD_KEYS = [
    "a",
    "a b/c",
    ".hidden/..a/a..",
    "Größe/胸部.dcm",
    "back\\slash",
    "new\nline",
    "%2e%2e/%00",
    "~/$HOME/*?",
    "x" * 255,
    "-rf",
    "1/incoming/trash",
    "incoming.dcm",
]


@pytest.fixture
def implementation(make_storage: MakeStorage) -> Implementation:
    return make_storage()


@pytest.fixture
def storage(implementation: Implementation) -> Storage:
    return implementation.storage


@pytest.fixture
def at(implementation: Implementation) -> Callable[[str], str]:
    """Makes a key of the storage."""
    return implementation.at


At = Callable[[str], str]


def contents(storage: Storage, key: str) -> bytes:
    with storage.open(key) as source:
        return source.read(0, source.size)


def everything(storage: Storage) -> dict[str, bytes]:
    return {key: contents(storage, key) for key in storage.list()}


# ------------------------------------------------------------------------------------ put and read


def test_what_is_put_is_read(storage: Storage, at: At) -> None:
    for size in (0, 1, 4096, 65_537, len(DATA)):
        key = at(f"1/2/{size}.dcm")
        assert storage.put(key, [DATA[:size]]) == size
        assert contents(storage, key) == DATA[:size]
        assert storage.exists(key)


def test_pieces_of_every_kind_and_length(storage: Storage, at: At) -> None:
    pieces = [b"", DATA[:10], bytearray(DATA[10:11]), memoryview(DATA)[11:200_000], b"", DATA[200_000:]]
    assert storage.put(at("a"), iter(pieces)) == len(DATA)
    assert contents(storage, at("a")) == DATA


def test_any_range_is_read_beyond_the_end_too(storage: Storage, at: At) -> None:
    storage.put(at("a"), [DATA])
    end = len(DATA)
    offsets = (0, 1, 7, 4095, 65_536, end - 1, end, end + 1, 1 << 40)
    lengths = (0, 1, 3, 4096, 65_537, end, 1 << 40)
    with storage.open(at("a")) as source:
        assert source.size == end
        for offset, length in itertools.product(offsets, lengths):
            assert source.read(offset, length) == DATA[offset : offset + length], (offset, length)


def test_beyond_the_end_of_an_empty_object_there_is_nothing(storage: Storage, at: At) -> None:
    storage.put(at("a"), [])
    with storage.open(at("a")) as source:
        assert (source.size, source.read(0, 10), source.read(5, 5)) == (0, b"", b"")


def test_threads_share_an_open_object(storage: Storage, at: At) -> None:
    storage.put(at("a"), [DATA])
    ranges = [(offset, 1 + offset % 5000) for offset in range(0, len(DATA), 1009)]
    with storage.open(at("a")) as source, ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda span: source.read(*span), ranges))
    assert read == [DATA[offset : offset + length] for offset, length in ranges]


def test_closing_again_changes_nothing(storage: Storage, at: At) -> None:
    storage.put(at("a"), [DATA])
    source = storage.open(at("a"))
    source.close()
    source.close()


def test_info_is_what_opening_tells(storage: Storage, at: At) -> None:
    storage.put(at("a"), [DATA])
    info = storage.info(at("a"))
    with storage.open(at("a")) as source:
        assert (info.size, info.modified_ns) == (source.size, source.modified_ns)
    assert info.modified_ns > 0


@pytest.mark.parametrize("naming", NAMINGS)
def test_instances_under_any_naming(storage: Storage, at: At, naming: str) -> None:
    values = {"study_date": "20240229"}
    headers = [Header(InstanceUIDs("1.2", "1.3", f"1.4.{number}"), "1", "1", values) for number in range(12)]
    keys = [at(instance_key(header, naming, version)) for header in headers for version in (1, 2, 10)]
    for key in keys:
        storage.put(key, [key.encode()])
    assert everything(storage) == {key: key.encode() for key in keys}


# ------------------------------------------------------------------------------------ nothing is overwritten


def test_put_never_overwrites(storage: Storage, at: At) -> None:
    storage.put(at("1/a"), [b"old"])
    with pytest.raises(ObjectExists):
        storage.put(at("1/a"), [b"new"])
    assert everything(storage) == {at("1/a"): b"old"}
    storage.put(at("1/b"), [b"new"])
    assert everything(storage) == {at("1/a"): b"old", at("1/b"): b"new"}


def test_of_puts_at_the_same_time_one_wins(storage: Storage, at: At) -> None:
    threads, rounds = 8, 15
    start = threading.Barrier(threads)
    outcomes: list[tuple[str, int, bool]] = []

    def race(number: int) -> None:
        for key in (at(f"{round_}/a.dcm") for round_ in range(rounds)):
            start.wait(30)
            try:
                storage.put(key, [bytes([number]) * 5000, bytes([number]) * 5000])
                outcomes.append((key, number, True))
            except ObjectExists:
                outcomes.append((key, number, False))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(race, range(threads)))
    winners = {key: number for key, number, won in outcomes if won}
    assert len(outcomes) == threads * rounds
    assert sum(won for _, _, won in outcomes) == rounds
    assert everything(storage) == {key: bytes([number]) * 10_000 for key, number in winners.items()}


class Broken(Exception):
    """The sender is gone."""


def broken() -> Iterator[bytes]:
    yield DATA
    raise Broken


def test_what_the_pieces_raise_passes_through_and_nothing_is_stored(storage: Storage, at: At) -> None:
    with pytest.raises(Broken):
        storage.put(at("1/a"), broken())
    assert not storage.exists(at("1/a"))
    assert everything(storage) == {}
    storage.put(at("1/a"), [b"whole"])
    assert everything(storage) == {at("1/a"): b"whole"}


# ------------------------------------------------------------------------------------ what is not there


def test_what_is_not_there(storage: Storage, at: At) -> None:
    storage.put(at("a/b"), [b"data"])
    for key in (at("c"), at("a/c"), at("a"), at("a/b/c"), at("a/b.dcm")):
        assert not storage.exists(key)
        for act in (storage.open, storage.info):
            with pytest.raises(ObjectNotFound) as raised:
                act(key)
            assert isinstance(raised.value, StorageUnavailable)
        storage.remove(key)
    assert everything(storage) == {at("a/b"): b"data"}


def test_what_is_removed_is_gone_and_may_be_put_again(storage: Storage, at: At) -> None:
    storage.put(at("1/2/a"), [b"old"])
    storage.put(at("1/2/b"), [b"stays"])
    for _ in range(2):
        storage.remove(at("1/2/a"))
        assert not storage.exists(at("1/2/a"))
        assert everything(storage) == {at("1/2/b"): b"stays"}
    with pytest.raises(ObjectNotFound):
        storage.open(at("1/2/a"))
    storage.put(at("1/2/a"), [b"new"])
    assert contents(storage, at("1/2/a")) == b"new"


# ------------------------------------------------------------------------------------ keys


def test_names_that_are_no_keys_are_refused(storage: Storage, at: At) -> None:
    for key in [*NO_KEYS, *map(at, NO_KEYS)]:
        assert not storage.exists(key)
        for act in (storage.open, storage.info, storage.remove, lambda name: storage.put(name, [b"data"])):
            with pytest.raises(InvalidKey):
                act(key)
        with storage.bulk() as writer, pytest.raises(InvalidKey):
            writer.put(key, [b"data"])
    assert everything(storage) == {}


@pytest.mark.slow
@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples.of(100))
def test_any_text_is_a_key_or_refused(make_storage: MakeStorage, text: str) -> None:
    """Whatever is taken is found again under its name, and nothing else is."""
    implementation = make_storage()
    key = implementation.at(text)
    try:
        implementation.storage.put(key, [b"data"])
    except InvalidKey:
        assert everything(implementation.storage) == {}
    else:
        assert everything(implementation.storage) == {key: b"data"}


def test_what_the_archive_keeps_for_itself_is_no_key(implementation: Implementation) -> None:
    storage = implementation.storage
    for name in RESERVED:
        for key in (name, f"{name}/a", f"{name}/1/2.dcm"):
            if not implementation.prefix:
                with pytest.raises(InvalidKey):
                    storage.put(key, [b"data"])
                assert not storage.exists(key)
        assert list(storage.list()) == list(storage.list(f"{name}/")) == []


def test_odd_names_are_keys_all_the_same(storage: Storage, at: At) -> None:
    for key in ODD_KEYS:
        storage.put(at(key), [key.encode()])
    assert everything(storage) == {at(key): key.encode() for key in ODD_KEYS}
    for key in ODD_KEYS:
        assert (storage.exists(at(key)), storage.info(at(key)).size) == (True, len(key.encode()))
        storage.remove(at(key))
    assert everything(storage) == {}


# ------------------------------------------------------------------------------------ lists

# One key must not be what another one begins with: on a file system a name is a file or a directory.
ORDERED = ["1.2.dcm", "1/2-/3", "1/2./3", "1/2/3.dcm", "1/2/3.v2.dcm", "1/20/3", "10/2/3", "A/b", "a/b", "ä/b", "胸"]


def test_keys_are_listed_in_the_order_of_their_bytes(storage: Storage, at: At) -> None:
    for key in random.Random(2).sample(ORDERED, len(ORDERED)):
        storage.put(at(key), [b""])
    assert list(storage.list()) == [at(key) for key in ORDERED] == sorted(map(at, ORDERED), key=str.encode)


def test_keys_are_listed_by_prefix(storage: Storage, at: At) -> None:
    for key in ORDERED:
        storage.put(at(key), [b""])
    for prefix in ["", "1", "1/", "1/2", "1/2/", "1/2/3.v", "1.2", "10", "a", "b", "2/3", "1/2/3.dcm", "ä"]:
        assert list(storage.list(at(prefix))) == [at(key) for key in ORDERED if key.startswith(prefix)]


def test_a_list_goes_on_where_another_one_ended(storage: Storage, at: At) -> None:
    for key in ORDERED:
        storage.put(at(key), [b""])
    afters = ["", "0", "1.2.dcm", "1/2./3", "1/2/3.dcm", "1/2/3.dcm/x", "1/2/3.e", "1/3", "B", "z", "胸"]
    for after, prefix in itertools.product(afters, ["", "1/2/", "1/"]):
        expected = [at(key) for key in ORDERED if key.startswith(prefix) and key.encode() > after.encode()]
        assert list(storage.list(at(prefix), after=at(after))) == expected


NAMES = st.text(st.sampled_from("12.-/vä~ "), min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))


def without_conflicts(keys: list[str]) -> list[str]:
    """The keys of which none is what another one begins with, as a directory."""
    return [key for key in set(keys) if not any(other.startswith(f"{key}/") for other in keys)]


@pytest.mark.slow
@settings(
    max_examples=examples.of(60), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    keys=st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=12).map(without_conflicts),
    prefix=st.text("12./ä", max_size=3),
    after=st.text("12./ä~", max_size=4),
)
def test_any_list(make_storage: MakeStorage, keys: list[str], prefix: str, after: str) -> None:
    implementation = make_storage()
    stored = []
    for key in map(implementation.at, keys):
        try:
            implementation.storage.put(key, [b""])
            stored.append(key)
        except InvalidKey:
            continue
    begin, behind = implementation.at(prefix), implementation.at(after)
    expected = [key for key in stored if key.startswith(begin) and key.encode() > behind.encode()]
    assert list(implementation.storage.list(begin, after=behind)) == sorted(expected, key=str.encode)


def test_nothing_begins_with_a_strange_prefix(storage: Storage, at: At) -> None:
    storage.put(at("a/b"), [b""])
    for prefix in [*NO_KEYS[3:5], *NO_KEYS[6:], "no/such/prefix/", "incoming/", "\ud800/"]:
        assert list(storage.list(prefix)) == []


def test_what_changes_while_a_list_is_read_does_not_end_it(storage: Storage, at: At) -> None:
    keys = [at(f"{number:02}/a") for number in range(20)]
    for key in keys:
        storage.put(key, [b""])
    listed = storage.list()
    first = list(itertools.islice(listed, 3))
    for key in keys[5:]:
        storage.remove(key)
    storage.put(at("99/new"), [b""])
    rest = list(listed)
    assert first == keys[:3]
    assert set(keys[3:5]) <= set(rest) <= {*keys[3:], at("99/new")}
    assert rest == sorted(rest)


def test_whether_there_are_instances(storage: Storage, at: At) -> None:
    assert not storage.holds_instances()
    storage.put(at("1/2/notes.txt"), [b""])
    if at("") == "":
        assert not storage.holds_instances()
        storage.put(at("1/2/3.dcm"), [b""])
        assert storage.holds_instances()
        storage.remove(at("1/2/3.dcm"))
        assert not storage.holds_instances()


# ------------------------------------------------------------------------------------ many at a time


def test_what_is_stored_in_bulk_is_there_at_the_end(storage: Storage, at: At) -> None:
    with storage.bulk() as writer:
        for number in range(40):
            assert writer.put(at(f"{number % 3}/{number}"), [DATA[:number], b"x"]) == number + 1
    assert everything(storage) == {at(f"{number % 3}/{number}"): DATA[:number] + b"x" for number in range(40)}


def test_bulk_replaces_what_is_there(storage: Storage, at: At) -> None:
    storage.put(at("a/b"), [b"damaged"])
    with storage.bulk() as writer:
        writer.put(at("a/b"), [b"whole"])
        writer.put(at("a/b"), [b"whole again"])
    assert everything(storage) == {at("a/b"): b"whole again"}


def test_a_piece_that_fails_in_bulk_costs_one_object(storage: Storage, at: At) -> None:
    storage.put(at("old"), [b"old"])
    with storage.bulk() as writer:
        writer.put(at("a"), [b"one"])
        for key in ("b", "old"):
            with pytest.raises(Broken):
                writer.put(at(key), broken())
        writer.put(at("c"), [b"three"])
    assert everything(storage) == {at("a"): b"one", at("c"): b"three", at("old"): b"old"}


def test_a_bulk_that_is_cut_off_leaves_whole_objects(storage: Storage, at: At) -> None:
    def cut_off() -> None:
        with storage.bulk() as writer:
            for number in range(20):
                writer.put(at(str(number)), [DATA])
            raise Broken

    with pytest.raises(Broken):
        cut_off()
    assert set(everything(storage).values()) <= {DATA}
    # Another one begins anew.
    with storage.bulk() as writer:
        writer.put(at("x"), [b"x"])
    assert contents(storage, at("x")) == b"x"
