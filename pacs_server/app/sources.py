"""The sources of worklist items that run with the server: the watched folder and the HL7 port."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from pacs_server.config.model import Config
from pacs_server.hl7.mllp import MLLPServer
from pacs_server.hl7.orders import OrderService
from pacs_server.intake.worklist_folder import WorklistFolder
from pacs_server.kit.metrics import Metrics
from pacs_server.services.worklist import WorklistService

# How long a message that is being committed may take when the server stops, in seconds.
_STOP_SECONDS = 5.0


@contextmanager
def worklist_sources(
    config: Config, worklist: WorklistService, hl7: socket.socket | None, metrics: Metrics
) -> Iterator[None]:
    """Watch `worklist.folder` and answer HL7 messages on the bound socket `hl7`, each if there is one.

    Raises ConfigError if the folder cannot be made.
    """
    settings = config.worklist
    with ExitStack() as stack:
        if settings.folder is not None:
            folder = WorklistFolder(
                settings.folder,
                worklist,
                interval=settings.folder_interval,
                taken=lambda accepted: metrics.worklist_input("folder", accepted=accepted),
            )
            try:
                folder.start()
            except OSError as error:
                raise config.error("worklist.folder", f"cannot be made: {error.strerror}") from None
            stack.callback(folder.stop)
        if hl7 is not None:
            orders = OrderService(worklist, taken=lambda accepted: metrics.worklist_input("hl7", accepted=accepted))
            server = MLLPServer(hl7, orders.take)
            server.start()
            stack.callback(partial(server.stop, _STOP_SECONDS))
        yield
