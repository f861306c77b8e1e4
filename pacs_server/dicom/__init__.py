"""Pure functions and values on pydicom: no sockets, no files, no SQL."""
