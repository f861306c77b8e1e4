"""What the archive does, in DICOM terms; no sockets, no SQL."""
