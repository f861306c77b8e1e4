"""The table of SOP classes against pynetdicom's registry."""

from typing import get_args

import pytest
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, QueryRetrievePresentationContexts

from pacs_server.config.sections.access_control import PeerService
from pacs_server.scp.contexts import PEER_SERVICES, SOP_CLASSES, Service, is_storage, supports

PRIVATE = "1.2.826.0.1.3680043.8.498.99"
RETIRED_STORAGE = "1.2.840.10008.5.1.4.1.1.5"


def test_every_storage_class_in_every_transfer_syntax_of_files():
    support = supports(accept_unknown=False)
    for context in AllStoragePresentationContexts:
        offered = support(str(context.abstract_syntax))
        assert offered is not None
        assert offered.as_scu
        assert offered.proposer_prefers
        assert set(offered.transfer_syntaxes) == {
            str(uid) for uid in ALL_TRANSFER_SYNTAXES if not uid.startswith("1.2.840.10008.1.2.7.")
        }


def test_query_retrieve_classes_are_in_the_right_service():
    services = {"FIND": Service.FIND, "MOVE": Service.MOVE, "GET": Service.GET}
    known = {str(c.abstract_syntax): str(c.abstract_syntax.name) for c in QueryRetrievePresentationContexts}
    for uid, entry in SOP_CLASSES.items():
        if entry.service in services.values():
            assert known[uid].endswith(entry.name.rsplit(" ", 1)[1])
            assert entry.service is services[entry.name.rsplit(" ", 1)[1]]


def test_every_service_has_a_name_in_rules_and_every_name_a_service():
    assert set(PEER_SERVICES) == set(Service)
    assert set(PEER_SERVICES.values()) == set(get_args(PeerService))


@pytest.mark.parametrize(
    ("uid", "strict", "lenient"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True, True),
        (RETIRED_STORAGE, False, True),
        (PRIVATE, False, True),
        ("1.2.840.10008.5.1.4.1.2.2.1", False, False),
        ("1.2.840.10008.5.1.4.31", False, False),
        ("1.2.840.10008.1.20.1", False, False),
        ("1.2.840.10008.1.1", False, False),
        ("1.2.840.10008.9.9.9", False, False),
    ],
)
def test_which_classes_are_stored(uid, strict, lenient):
    assert is_storage(uid, accept_unknown=False) is strict
    assert is_storage(uid, accept_unknown=True) is lenient
