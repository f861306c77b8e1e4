"""What a failed association says of the remote as a whole: it is busy, or it cannot be used."""

from typing import Final

from pacs_server.errors import RemoteBusy, RemoteError, RemoteUnreachable
from pacs_server.net.acceptor import Rejected
from pacs_server.net.transport import AssociationEnded, DeadlineExpired
from pacs_server.scu.remote import RemoteAE

# PS3.8 Table 9-21: the provider (presentation) rejects for temporary congestion, or because its limit is reached.
_PRESENTATION: Final = 3
# The user of the service rejects because it does not know the calling or the called AE title.
_USER: Final = 1
_CALLING: Final = 3
_CALLED: Final = 7
_FULL: Final = (1, 2)


def is_busy(ended: AssociationEnded) -> bool:
    """Whether a remote rejected an association because it has enough of them, which is no fault."""
    if not isinstance(ended, Rejected):
        return False
    return ended.rejection.source == _PRESENTATION and ended.rejection.reason in _FULL


def not_opened(remote: RemoteAE, ended: AssociationEnded, *, others_work: bool = False) -> RemoteError:
    """The error for an association that could not be opened.

    Some remotes take one association at a time and leave the next one without an answer: while `others_work`,
    associations of this server with the same remote, silence means that it is busy.
    """
    silent = isinstance(ended, DeadlineExpired) and others_work
    kind = RemoteBusy if is_busy(ended) or silent else RemoteUnreachable
    return kind(f"{remote.name or remote.ae_title}: {ended.how}{_advice(remote, ended)}")


def _advice(remote: RemoteAE, ended: AssociationEnded) -> str:
    """What to do about a rejection, if it says so (PS3.8 Table 9-21)."""
    if not isinstance(ended, Rejected) or ended.rejection.source != _USER:
        return ""
    if ended.rejection.reason == _CALLED:
        return f", it is not called {remote.ae_title}: correct ae_title in remote_aes"
    if ended.rejection.reason == _CALLING:
        return ", it does not know this server: add server.ae_title there"
    return ""


def broken(remote: RemoteAE, ended: AssociationEnded) -> RemoteUnreachable:
    """The error for an association that broke while it was used."""
    late = isinstance(ended, DeadlineExpired)
    how = f"no answer within {remote.response_timeout:g} s" if late else ended.how
    return RemoteUnreachable(f"{remote.name or remote.ae_title}: {how}")
