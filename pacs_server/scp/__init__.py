"""One file per DIMSE service: translate in, one service call, translate out."""
