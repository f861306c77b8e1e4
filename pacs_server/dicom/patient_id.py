"""A Patient ID with its issuer as one text, in the form of HL7 (CX): ID^^^ISSUER, or ID if there is no issuer."""

from typing import Final

WITH_ISSUER: Final = "^^^"


def patient_of(text: str) -> tuple[str, str]:
    """The Patient ID and the issuer, '' without one, that a text names."""
    patient_id, _, issuer = text.partition(WITH_ISSUER)
    return patient_id, issuer


def patient_text(patient_id: str, issuer: str) -> str:
    """The text that names a Patient ID and its issuer, which may be ''."""
    return f"{patient_id}{WITH_ISSUER}{issuer}" if issuer else patient_id
