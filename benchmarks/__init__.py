"""Side-by-side benchmarks of this server and the DICOM servers that are installed; `run.py` is the entry."""
