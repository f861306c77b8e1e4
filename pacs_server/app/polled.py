"""Checks what polling is to search for, before anything is asked."""

from pacs_server.config.model import Config
from pacs_server.errors import InvalidIdentifier
from pacs_server.scu.query_keys import refuse_key_of_study


def check_queries(config: Config) -> None:
    """Raise ConfigError, which says in which line what is wrong, if a search of the polling could not be made."""
    for number, entry in enumerate(config.polling):
        for path, text in entry.query.items():
            try:
                refuse_key_of_study(path, text)
            except InvalidIdentifier as error:
                raise config.error(f"polling[{number}].query.{path}", str(error)) from None
