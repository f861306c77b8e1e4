"""The private elements of a stored instance, over REST and on its page; what is stored and standard stays as it is."""

import pytest
from restapi import RestAPI
from vendor_objects import make

from pacs_server.audit.events import EventID
from pacs_server.web.pages.study_tags import known_values


@pytest.mark.parametrize("block", [0x10, 0x13])
def test_a_view_by_creator_beside_the_attributes_as_they_are(api: RestAPI, block: int) -> None:
    (ds,) = api.store([make("Siemens", block)])
    path = f"/instances/{ds.SOPInstanceUID}"
    found = api.get(f"{path}/private")
    tag = f"0019{block:02X}0C"
    assert found["vendor"] == "Siemens"
    (element,) = [each for each in found["private"] if each["element"] == "0019xx0C"]
    assert element == {
        **{"tag": tag, "creator": "SIEMENS MR HEADER", "element": "0019xx0C"},
        **{"name": "B_value", "vr": "IS", "values": [1000]},
    }
    (b_value,) = [each for each in found["standard"] if each["keyword"] == "DiffusionBValue"]
    assert (b_value["values"], b_value["elements"], b_value["tag"], b_value["where"]) == ([1000], [tag], "00189087", "")
    assert "dcm2niix" in b_value["source"]
    tags = api.get(f"{path}/tags")
    assert "00189087" not in tags
    assert tags[tag]["Value"] == [1000]
    events = [record.event.event_id for record in api.audited()]
    assert events.count(EventID.INSTANCES_TRANSFERRED) == 2, "it is audited as a look at the attributes is"
    assert ("Diffusion b-value", "1000", "SIEMENS MR HEADER") in known_values(tags)


def test_an_instance_without_private_elements(api: RestAPI) -> None:
    (ds,) = api.study()
    assert api.get(f"/instances/{ds.SOPInstanceUID}/private") == {"vendor": "", "standard": [], "private": []}
    api.send("GET", "/instances/1.2.3.4/private", status=404)
