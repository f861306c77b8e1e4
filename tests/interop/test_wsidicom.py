"""wsidicom, which shows whole slide images, opens one from the server."""

from collections.abc import Iterator

import numpy as np
import pytest
from compressed import LOSSLESS
from datasets import uid, write_part10
from servers import config, running
from slides import make_slide
from wsidicom import WsiDicom, WsiDicomWebClient

from pacs_server.app.server import PacsServer
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin

# It reads metadata without asking for the pixels that they refer to.
pytestmark = pytest.mark.filterwarnings("ignore:No bulk data URI handler:UserWarning")
PICTURE = np.random.default_rng(11).integers(0, 256, (90, 150, 3)).astype("u1")
SMALL = np.ascontiguousarray(PICTURE[::2, ::2])
TILE = 32
STUDY, SERIES, FRAME_OF_REFERENCE = uid(), uid(), uid()


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsServer]:
    """A server with a slide of two levels, the larger one in JPEG-LS, the smaller one in JPEG 2000.

    wsidicom cannot read uncompressed frames over HTTP.
    """
    directory = tmp_path_factory.mktemp("slide")
    same = {"study": STUDY, "series": SERIES, "frame_of_reference": FRAME_OF_REFERENCE}
    levels = [
        make_slide(PICTURE, TILE, LOSSLESS["jpeg-ls"], 0.01, **same),
        make_slide(SMALL, TILE, LOSSLESS["jpeg-2000"], 0.02, **same),
    ]
    with running(config(directory, web=True)) as pacs:
        for number, ds in enumerate(levels):
            path = write_part10(ds, directory / f"{number}.dcm")
            pacs.archive.store.store_file(path, Origin("SCANNER", "PACS", "127.0.0.1", Door.DIMSE))
        yield pacs


def test_wsidicom_reads_regions_of_a_slide(pacs: PacsServer) -> None:
    assert pacs.web_address is not None
    client = WsiDicomWebClient.create_client("http://{}:{}/dicom-web".format(*pacs.web_address))
    with WsiDicom.open_web(client, STUDY, SERIES) as slide:
        assert [(level.size.width, level.size.height) for level in slide.levels] == [(150, 90), (75, 45)]
        # Over the edges of tiles, and at the right edge of the picture.
        for level, picture, (x, y, width, height) in [
            (0, PICTURE, (20, 10, 70, 60)),
            (0, PICTURE, (110, 50, 40, 40)),
            (1, SMALL, (0, 0, 75, 45)),
        ]:
            region = np.asarray(slide.read_region((x, y), level, (width, height)))
            assert np.array_equal(region, picture[y : y + height, x : x + width]), (level, x, y)
        assert np.array_equal(np.asarray(slide.read_tile(0, (1, 1))), PICTURE[TILE : 2 * TILE, TILE : 2 * TILE])
