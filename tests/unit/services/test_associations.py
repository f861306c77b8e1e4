"""The last associations are remembered, and a flood of refusals pushes no others out."""

from pacs_server.dicom.caller import Caller, Door
from pacs_server.services.associations import RecentAssociations, Traffic


def test_a_flood_of_refusals_leaves_what_ended() -> None:
    recent = RecentAssociations(kept=3)
    recent.ended(Caller(Door.DIMSE, "10.0.0.7", "CT1", "PACS"), "released", {"C-ECHO": 1}, Traffic(1, 2, 0.5))
    for number in range(10):
        recent.refused(f"10.0.0.{number}", "associations", tls=False)
    found = recent.list()
    assert [each.address for each in found] == ["10.0.0.9", "10.0.0.8", "10.0.0.7", "10.0.0.7"]
    assert [each.number for each in found] == [11, 10, 9, 1]
    assert [each.outcome for each in recent.list(refused=False)] == ["released"]
    assert all(each.refused for each in recent.list(refused=True))


def test_titles_of_any_length_are_cut() -> None:
    recent = RecentAssociations()
    recent.refused("10.0.0.7", "protocol", tls=True, calling_ae="x" * 1000)
    assert len(recent.list()[0].calling_ae) == 64
