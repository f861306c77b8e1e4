"""Outgoing DIMSE: associations that the server requests, and what is sent over them."""
