"""Background tasks in plain words: what each kind does, and why one failed with what to do: **the** tables."""

import re
from typing import Final

from pacs_server.web.pages.association_words import Explained
from pacs_server.web.pages.delivery_words import OTHER, failure
from pacs_server.web.pages.languages import marked

KINDS: Final = {
    "forward": marked("Send"),
    "fetch": marked("Fetch"),
    "export": marked("Export"),
    "poll": marked("Search a remote for new studies"),
    "prefetch": marked("Look for earlier studies"),
    "commitment": marked("Report storage commitment"),
    "ask_commitment": marked("Ask for storage commitment"),
    "webhook": marked("Call a webhook"),
    "study_complete": marked("Check whether a study is complete"),
}
STATES: Final = {
    "ready": marked("waits"),
    "running": marked("running"),
    "done": marked("done"),
    "dead": marked("given up"),
    "cancelled": marked("cancelled"),
}
_LATER: Final = marked("The server tries again automatically.")


# The first pattern that fits counts.
_TABLE: Final = tuple(
    (re.compile(pattern), Explained(why, advice))
    for pattern, why, advice in (
        (r"is not in remote_aes", marked("The settings name no such remote."),
         marked("Add it to remote_aes and reload, then retry. Or cancel the task.")),
        (r"has nothing of that", marked("The remote has no such study."),
         marked("Check the UID or accession number, or ask another remote. Then cancel this task.")),
        (r"a folder of this name is there", marked("Somebody else has made a folder of this name meanwhile."),
         marked("Export again under another name, and cancel this task.")),
        (r"instances? could not be read; the others",
         marked("Some images are not in the export, because their files cannot be read."),
         marked("The rest is in the folder. pacs-server verify tells which files are damaged. Then cancel this task.")),
        (r"exporting is switched off", marked("The settings name no directory for exports any more."),
         marked("Set web.export_directory and reload, then retry. Or cancel the task.")),
        (r"web\.export_directory has", marked("The disk for exports does not have enough space."),
         marked("Free some space there, then retry.")),
        (r"web\.export_directory (is not there|cannot be)", marked("The directory for exports cannot be used."),
         marked("Check that its disk is mounted and the server may write to it. It is tried again automatically.")),
        (r"there is no study of these UIDs", marked("The studies are not in the archive any more."),
         marked("There is nothing to do. Cancel the task.")),
        (r"did not send all|are missing", marked("The remote sent only a part."),
         marked("Look into its log. A retry fetches what is missing.")),
        (r"has not reported within", marked("The remote did not say whether it keeps what it was sent."),
         marked("Check that it can reach this server by AE title, address and port. Then retry.")),
        (r"did not commit to", marked("The remote does not promise to keep some of what it was sent."),
         marked("Send those instances again, then retry. Do not delete them here.")),
        (r"is not asked for storage commitment any more", marked("The settings ask for no commitment any more."),
         marked("There is nothing to do. Cancel the task.")),
        (r"the rule .* is gone", marked("The rule that caused this no longer exists."),
         marked("There is nothing to do. Cancel the task.")),
        (r"webhook_secret_file", marked("The secret for webhooks cannot be read."),
         marked("Check routing.webhook_secret_file, reload, then retry.")),
        (r"cannot call", marked("The receiver of the webhook cannot be reached."),
         marked("Check its address, and that it runs, then retry.")),
        (r"answered 4\d\d$", marked("The receiver of the webhook refused the call."),
         marked("Look into its log: it says why. Then retry.")),
        (r"answered 5\d\d|asked to come back", marked("The receiver has a fault, or is busy."), _LATER),
        (r"the peer answered", marked("The remote does not accept the report."),
         marked("Look into its log: it says why. Then retry.")),
        (r"internal error", marked("This is a fault of the server."),
         marked("The log of the server tells more. Please report it.")),
        (r"shuts down|process that ran it", marked("The server was stopped while the task ran."), _LATER),
    )
)  # fmt: skip


def explained(error: str) -> Explained | None:
    """Why a task failed, by the sentence that was recorded; None if no table knows it."""
    found = next((found for pattern, found in _TABLE if pattern.search(error)), None)
    if found is None:
        told = failure(error)
        found = None if told is OTHER else told
    return found
