"""wsidicom, which shows whole slide images, opens one from the server."""

from collections.abc import Iterator

import numpy as np
import pytest
from datasets import write_part10
from pydicom.dataset import Dataset
from servers import config, running
from wsidicom import WsiDicom, WsiDicomWebClient

from pacs_server.app.server import PacsServer
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.testing import synthetic

# It reads metadata without asking for the pixels that they refer to.
pytestmark = pytest.mark.filterwarnings("ignore:No bulk data URI handler:UserWarning")
TILE = 64
# The larger level in JPEG-LS, the smaller one in JPEG 2000: wsidicom cannot read uncompressed frames over HTTP.
LEVELS = [
    synthetic.slide(2, size=150, transfer_syntax=syntax)[level]
    for level, syntax in enumerate(("JPEGLSLossless", "JPEG2000Lossless"))
]


def picture(level: Dataset) -> np.ndarray:
    """What the tiles of a level show together, as pydicom decodes them."""
    count = -(-level.TotalPixelMatrixColumns // TILE)
    tiles = level.pixel_array.reshape(-1, count, TILE, TILE, 3)
    whole = np.concatenate([np.concatenate(list(row), axis=1) for row in tiles])
    return whole[: level.TotalPixelMatrixRows, : level.TotalPixelMatrixColumns]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsServer]:
    """A server with a slide of two levels."""
    directory = tmp_path_factory.mktemp("slide")
    with running(config(directory, web=True)) as pacs:
        for number, ds in enumerate(LEVELS):
            path = write_part10(ds, directory / f"{number}.dcm")
            pacs.archive.store.store_file(path, Origin("SCANNER", "PACS", "127.0.0.1", Door.DIMSE))
        yield pacs


def test_wsidicom_reads_regions_of_a_slide(pacs: PacsServer) -> None:
    assert pacs.web_address is not None
    client = WsiDicomWebClient.create_client("http://{}:{}/dicom-web".format(*pacs.web_address))
    large, small = map(picture, LEVELS)
    with WsiDicom.open_web(client, LEVELS[0].StudyInstanceUID, LEVELS[0].SeriesInstanceUID) as slide:
        assert [(level.size.width, level.size.height) for level in slide.levels] == [(150, 150), (75, 75)]
        # Over the edges of tiles, and at the right edge of the picture.
        for level, shown, (x, y, width, height) in [
            (0, large, (20, 10, 120, 110)),
            (0, large, (110, 50, 40, 40)),
            (1, small, (0, 0, 75, 75)),
        ]:
            region = np.asarray(slide.read_region((x, y), level, (width, height)))
            assert np.array_equal(region, shown[y : y + height, x : x + width]), (level, x, y)
        assert np.array_equal(np.asarray(slide.read_tile(0, (1, 1))), large[TILE : 2 * TILE, TILE : 2 * TILE])
