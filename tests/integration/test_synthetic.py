"""Synthetic studies of every kind are stored by C-STORE in a real server, found, and rendered."""

from collections.abc import Callable
from io import BytesIO

import httpx2 as httpx
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pynetdicom import AE
from webclients import url_of

from pacs_server.app.server import PacsServer
from pacs_server.testing import synthetic

# They have no pixels of their own to look at; the dose is shown too.
_WITHOUT_PICTURE = {"SR", "RTSTRUCT", "RTPLAN"}


def stored(pacs: PacsServer, instances: list[Dataset]) -> None:
    ae = AE("MODALITY")
    for sop_class in {ds.SOPClassUID for ds in instances}:
        ae.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
    host, port = pacs.address
    association = ae.associate(host, port, ae_title=pacs.config.server.ae_title)
    try:
        assert [association.send_c_store(ds).Status for ds in instances] == [0] * len(instances)
    finally:
        association.release()


def test_every_kind_is_stored_found_and_rendered(serve: Callable[..., PacsServer]) -> None:
    pacs = serve(web=True)
    instances = synthetic.from_spec("size=64,frames=2,charset=all")
    stored(pacs, instances)
    with httpx.Client(base_url=url_of(pacs), headers={"Accept": "application/dicom+json"}) as client:
        found = client.get("/studies", params={"includefield": "all"}).json()
        assert {study["0020000D"]["Value"][0] for study in found} == {ds.StudyInstanceUID for ds in instances}
        assert {study["00100010"]["Value"][0]["Alphabetic"] for study in found} == {
            str(ds.PatientName).split("=")[0] for ds in instances
        }
        assert sum(study["00201208"]["Value"][0] for study in found) == len(instances)
        for ds in instances:
            if ds.Modality in _WITHOUT_PICTURE:
                continue
            path = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
            answer = client.get(f"{path}/frames/1/rendered", headers={"Accept": "image/png"})
            assert answer.status_code == 200, (ds.Modality, answer.text)
            picture = np.asarray(Image.open(BytesIO(answer.content)).convert("L")).astype(int)
            assert picture.max() - picture.min() > 100, ds.Modality
