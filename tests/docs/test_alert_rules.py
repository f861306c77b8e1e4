"""The alert rules of docs/metrics.md as Prometheus itself understands them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

PAGE = "docs/metrics.md"


@pytest.fixture
def promtool(tmp_path: Path) -> Callable[..., str]:
    """Run promtool in a directory that has the rules of the page as rules.yaml; it has to succeed."""
    program = shutil.which("promtool")
    if program is None:
        assert os.environ.get("CI") != "true", "promtool is not installed"
        pytest.skip("promtool is not installed; on Debian and Ubuntu it is in the package prometheus")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(autouse=True)
def rules(code_blocks: Callable[[str, str], list[str]], tmp_path: Path) -> list[dict[str, Any]]:
    [text] = code_blocks(PAGE, "yaml")
    (tmp_path / "rules.yaml").write_text(text)
    found: list[dict[str, Any]] = yaml.safe_load(text)["groups"][0]["rules"]
    return found


def test_prometheus_takes_the_rules(promtool: Callable[..., str], rules: list[dict[str, Any]]) -> None:
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", "rules.yaml")


def _alarm(rule: Mapping[str, Any], labels: Mapping[str, str], summary: str) -> dict[str, Any]:
    """An alarm as a test of promtool expects it."""
    return {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": {"summary": summary}}


@pytest.mark.parametrize(
    ("name", "series", "quiet_at", "alarm_at", "labels", "summary"),
    [
        (
            *("PacsDown", {'up{job="pacs-server"}': "1 1 0x10"}, "3m", "5m"),
            *({"job": "pacs-server"}, "The server does not answer."),
        ),
        (
            "PacsRefusesObjects",
            {'pacs_dimse_requests_total{operation="C-STORE", status="0xA700"}': "0x5 1x20"},
            *("5m", "7m", {"operation": "C-STORE", "status": "0xA700"}),
            "Instances are refused because of this server.",
        ),
        (
            "PacsFilesDamaged",
            {'pacs_scrub_findings{kind="changed"}': "0 0 1x5", 'pacs_scrub_findings{kind="missing"}': "0x8"},
            *("1m", "3m", {"kind": "changed"}, "Stored files are missing or damaged: changed."),
        ),
        (
            *("PacsRemoteFails", {'pacs_remote_state{remote="WS1", state="failing"}': "0 1x20"}, "9m", "12m"),
            *({"remote": "WS1", "state": "failing"}, "The remote WS1 does not answer."),
        ),
        (
            *("PacsCertificateExpires", {"pacs_tls_certificate_expiry_seconds": "1209900x20"}, "4m", "7m"),
            *({}, "A TLS certificate of the server expires within two weeks."),
        ),
    ],
)
def test_an_alarm_comes_when_its_time_has_come(
    promtool: Callable[..., str],
    rules: list[dict[str, Any]],
    tmp_path: Path,
    name: str,
    series: Mapping[str, str],
    quiet_at: str,
    alarm_at: str,
    labels: Mapping[str, str],
    summary: str,
) -> None:
    """The series go on minute by minute from the beginning of 1970."""
    [rule] = [each for each in rules if each["alert"] == name]
    expected = [(quiet_at, []), (alarm_at, [_alarm(rule, labels, summary)])]
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "alert_rule_test": [
            {"eval_time": moment, "alertname": name, "exp_alerts": alarms} for moment, alarms in expected
        ],
    }
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    assert "SUCCESS" in promtool("test", "rules", "test.yaml")
