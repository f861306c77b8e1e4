"""Why something could not be sent to a remote, in plain words, and what to do: **the** table, by what is recorded."""

import re
from typing import Final

from pacs_server.web.pages.association_words import Explained
from pacs_server.web.pages.languages import marked

_CHECK_LOGIN: Final = marked("Check auth of this remote in remote_aes, and that its account there is in force.")
_ASK_THE_REMOTE: Final = marked("Look into the log of the remote: it says why. Then retry.")
_SENT_LATER: Final = marked("There is nothing to do: the server tries again automatically.")

# The first pattern that fits counts.
_TABLE: Final = (
    # What people or the settings want.
    (r"is paused by", marked("Somebody has paused this remote."), marked("Resume it when it may be sent to again.")),
    (r"is used from .* on$", marked("This remote is used at certain hours only."), _SENT_LATER),
    (r"is not in remote_aes", marked("The settings name no such remote any more."),
     marked("Add it to remote_aes again, have another remote get this, or cancel it.")),
    (r"has none in which it can be sent", marked("The settings allow no transfer syntax in which this can be sent."),
     marked("Add a transfer syntax to transfer_syntaxes of this remote, then retry.")),
    # No connection.
    (r"cannot connect to .*(Name or service|name resolution|No address|nodename|label|getaddrinfo)",
     marked("The host name of the remote is not known."),
     marked("Correct host of this remote in remote_aes, or write its address instead.")),
    (r"certificate|CERTIFICATE", marked("The certificates of the two systems do not fit."),
     marked("Check that each of them trusts the authority of the other, and that no certificate has expired.")),
    (r"cannot connect to .*refused", marked("Nothing listens at the address and port of the remote."),
     marked("Check that the system runs, and that host and port in remote_aes are right.")),
    (r"cannot connect to .*(TLS|SSL)|: TLS:", marked("The two systems do not agree about TLS."),
     marked("Check tls of this remote in remote_aes: both have to use TLS, or none.")),
    (r"cannot connect to", marked("The remote cannot be reached."),
     marked("Check that the system is on, and the network and the firewalls between here and there.")),
    # It refuses the association (PS3.8 Table 9-21).
    (r"by the peer \(\d,1,7\)", marked("The remote has another AE title than the settings say."),
     marked("Correct ae_title of this remote in remote_aes.")),
    (r"by the peer \(\d,1,3\)", marked("The remote does not know this archive."),
     marked("Have the AE title and the address of this archive entered at the remote.")),
    (r"by the peer \(\d,3,[12]\)|asks to come back|are in use|were busy|answers? 429",
     marked("The remote is busy."), _SENT_LATER),
    (r"rejected: by the peer", marked("The remote refuses associations and does not say why."), _ASK_THE_REMOTE),
    # It does not take what it is sent.
    (r"takes .* not at all", marked("The remote does not take objects of this kind."),
     marked("Send them elsewhere or cancel them. Some systems accept more kinds if their settings allow it.")),
    (r"takes .* only in", marked("The remote does not take the compression in which this is stored."),
     marked("Have the remote accept it, or send this elsewhere. Without loss it cannot be changed.")),
    (r"(answered|refused:) A7|HTTP 507|resource limitation|answered 0213",
     marked("The remote is out of space or memory."),
     marked("Have space freed there. The server tries again automatically.")),
    (r"(answered|refused:) (A9|C|0110|0106|0120|0121)|cannot be understood|HTTP (400|409|422)",
     marked("The remote cannot process this object."), _ASK_THE_REMOTE),
    (r"(answered|refused:) 0111|another object is stored", marked("Another object with this UID is there already."),
     marked("Compare both. One of them needs a new UID, or the remote has to take the new version.")),
    (r"(answered|refused:) (0118|0122)|no such SOP class|HTTP 415",
     marked("The remote does not take objects of this kind."),
     marked("Send them elsewhere or cancel them. Some systems accept more kinds if their settings allow it.")),
    (r"(answered|refused:) 0124|not authorised|(HTTP|answers?) 403", marked("The remote does not allow us to store."),
     marked("Have this archive given the right to store at the remote, then retry.")),
    # DICOMweb.
    (r"token endpoint", marked("The login service of the remote gives no token."), _CHECK_LOGIN),
    (r"how this server logs in|HTTP 401|answers? 401", marked("The remote does not accept our login."), _CHECK_LOGIN),
    (r"HTTP 413", marked("The remote finds this too large."),
     marked("Have the limit for requests raised at the remote, or at the proxy before it.")),
    (r"(HTTP|answers?) 404|HTTP 405|redirects", marked("There is no DICOMweb service at this URL."),
     marked("Correct url of this remote in remote_aes.")),
    (r"does not work: 50|HTTP 50\d", marked("The remote has a fault, or is being restarted."), _ASK_THE_REMOTE),
    # It breaks off.
    (r"no answer within|not answer in time|no data from the peer|not finished in time|takes too long|timed out",
     marked("The remote does not answer in time."),
     marked("Check whether it hangs. If it is only slow, raise response_timeout of this remote.")),
    (r"aborted by the peer|the association ended while", marked("The remote broke off while it was sent this."),
     _ASK_THE_REMOTE),
    (r"connection (lost|closed|to .* broke)", marked("The connection broke while it was used."),
     marked("If it happens again, look at the network and at the log of the remote.")),
    (r"in answer to an A-ASSOCIATE-RQ|PDU of unknown type|item cut|A-ASSOCIATE PDU",
     marked("What answers at this address does not speak DICOM."),
     marked("Check the port of this remote in remote_aes, and tls.")),
    # Here.
    (r"was deleted|was replaced", marked("It was deleted or replaced here meanwhile."),
     marked("There is nothing to do: a new version is sent automatically.")),
    (r"server shuts down|server stops", marked("This server was stopped."), _SENT_LATER),
    (r"not sent:|cannot be read|cannot (open|read) \S+: |is not there|cannot transcode|uncompressed|Pixel Data|"
     r"frames? ",
     marked("The stored object cannot be read, or not be changed as the remote needs it."),
     marked("Verify the archive: pacs-server verify says whether the file is damaged.")),
    (r"^cancelled$", marked("Somebody has cancelled it."), ""),
    (r"^sent to .* instead$", marked("Another remote gets it instead."), ""),
)  # fmt: skip
_NEW: Final = Explained(marked("It has not been tried yet."))
OTHER: Final = Explained(marked("The remote did not take it."), _ASK_THE_REMOTE)
_COMPILED: Final = tuple((re.compile(pattern), Explained(why, advice)) for pattern, why, advice in _TABLE)


def failure(detail: str) -> Explained:
    """Why a delivery waits or was given up, by the sentence that was recorded; '' for one that was not tried."""
    if not detail:
        return _NEW
    return next((each for pattern, each in _COMPILED if pattern.search(detail)), OTHER)
