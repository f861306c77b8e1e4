"""The DICOM upper layer: sockets, PDUs, associations and DIMSE messages; knows nothing of archives."""
