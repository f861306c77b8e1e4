"""What polling is to search for is checked before anything is asked: a remote ignores a key that it cannot match."""

from typing import Any

import pytest

from pacs_server.app.polled import check_queries
from pacs_server.config import Config, RemoteAEConfig
from pacs_server.config.sections.polling import PollingConfig
from pacs_server.errors import ConfigError


def asking(query: dict[str, Any]) -> Config:
    remote = RemoteAEConfig(ae_title="WS1", host="10.0.0.20", port=104)
    entry = PollingConfig.model_validate({"remote": "WS1", "every": "5m", "query": query})
    return Config(remote_aes=(remote,), polling=(entry,))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("Foo", "x", "'Foo' is no attribute: give its keyword, or its tag as 0008,0060"),
        ("Modality", "CT", "a search for studies cannot have this, use ModalitiesInStudy"),
        ("0008,0060", "CT", "a search for studies cannot have this, use ModalitiesInStudy"),
        ("SOPInstanceUID", "1.2", "a search for studies cannot have this, use StudyInstanceUID"),
        ("QueryRetrieveLevel", "SERIES", "the server sets this itself, leave it out"),
        ("StudyDate", "2026-01-01", "'2026-01-01' is no date or time such as 20260101, 20260101- or"),
        ("StudyDate", "today", "'today' is no date or time such as 20260101, 20260101- or"),
        ("StudyTime", "noon", "'noon' is no date or time such as 0700, 0700- or"),
    ],
)
def test_a_search_that_cannot_be_made_is_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_queries(asking({key: value}))
    assert f"polling[0].query.{key}: {message}" in str(refused.value)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"ModalitiesInStudy": "CT\\MR", "StudyDescription": "*thorax*", "StudyDate": "20260101-"},
        {"StudyDate": "", "StudyTime": "07:00-19:00", "InstitutionName": "North"},
        {"ProcedureCodeSequence.CodeValue": "17", "SIEMENS MR HEADER:0019xx0C": "1000"},
    ],
)
def test_others_are_not(query: dict[str, str]) -> None:
    check_queries(asking(query))
