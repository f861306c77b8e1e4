"""Verification SCP (PS3.4 Annex A)."""

from pacs_server.dicom.status import Status
from pacs_server.net.association import Association, Message
from pacs_server.scp.dispatch import Result


class VerificationSCP:
    """Answers C-ECHO."""

    def __call__(self, association: Association, message: Message) -> Result:
        """Answer with success."""
        association.skip_data()
        association.respond(message, Status.SUCCESS)
        return Result(Status.SUCCESS)
