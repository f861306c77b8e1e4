"""Outgoing DICOMweb: remotes that are queried by QIDO-RS, read by WADO-RS and sent to by STOW-RS (PS3.18)."""
