"""**The** table of rejections: why an association is refused, and the A-ASSOCIATE-RJ for it (PS3.8 Table 9-21)."""

from pacs_server.net.acceptor import Rejection
from pacs_server.services.access import Refusal

REJECTION_OF: dict[Refusal, Rejection] = {
    Refusal.CALLING_AE_TITLE: Rejection(1, 1, 3, Refusal.CALLING_AE_TITLE.value),
    # The same on the wire, so that the peer does not learn that its AE title is known.
    Refusal.PEER_ADDRESS: Rejection(1, 1, 3, Refusal.PEER_ADDRESS.value),
    # PS3.8 Table 9-21 has no reason for these two, so they are "no reason given".
    Refusal.TLS_REQUIRED: Rejection(1, 1, 1, Refusal.TLS_REQUIRED.value),
    Refusal.PEER_CERTIFICATE: Rejection(1, 1, 1, Refusal.PEER_CERTIFICATE.value),
}
"""The rejections of callers that no access rule lets in."""

CALLED_AE_NOT_RECOGNIZED = Rejection(1, 1, 7, "called_ae_title")
# PS3.7 D.3.3.7.3: rejected permanent, by the service provider (ACSE); no reason fits but "no reason given".
USER_NOT_AUTHENTICATED = Rejection(1, 2, 1, "user_identity")
# Temporary congestion: a later attempt may succeed.
TOO_MANY_WRONG_PASSWORDS = Rejection(2, 3, 1, "user_identity_attempts")
TEMPORARY_CONGESTION = Rejection(2, 3, 1, "association_rate")
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2, "associations")
LOCAL_LIMIT_OF_AE_EXCEEDED = Rejection(2, 3, 2, "associations_per_ae")

REJECTIONS = (
    *REJECTION_OF.values(),
    CALLED_AE_NOT_RECOGNIZED,
    USER_NOT_AUTHENTICATED,
    TOO_MANY_WRONG_PASSWORDS,
    TEMPORARY_CONGESTION,
    LOCAL_LIMIT_EXCEEDED,
    LOCAL_LIMIT_OF_AE_EXCEEDED,
)
