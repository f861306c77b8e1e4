"""Outgoing DIMSE and DICOMweb: associations and connections that the server requests, and what is sent over them."""
