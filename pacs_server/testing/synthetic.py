"""Synthetic studies for tests; `pacs_server.synthetic` makes them."""

from pacs_server.synthetic import (
    Patient,
    Spec,
    cr,
    ct,
    dx,
    enhanced_ct,
    from_spec,
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
