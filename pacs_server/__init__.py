"""A DICOM archive server: store, query and retrieve over the network, from one command."""

__version__ = "0.1.0"
