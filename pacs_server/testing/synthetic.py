"""Synthetic studies for tests; `pacs_server.synthetic` makes them."""

from pacs_server.synthetic.kinds import (
    cr,
    ct,
    dx,
    enhanced_ct,
    mg,
    mr,
    pet,
    rt,
    seg,
    slide,
    sr,
    us,
    xa,
)
from pacs_server.synthetic.people import Patient
from pacs_server.synthetic.spec import Spec, from_spec

__all__ = (
    "Patient",
    "Spec",
    "cr",
    "ct",
    "dx",
    "enhanced_ct",
    "from_spec",
    "mg",
    "mr",
    "pet",
    "rt",
    "seg",
    "slide",
    "sr",
    "us",
    "xa",
)
