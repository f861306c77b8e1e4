"""Routing rules: which settings make sense, said with the line; and what they match."""

import textwrap
from datetime import datetime
from pathlib import Path

import pytest

from pacs_server.config import Config
from pacs_server.config.load import load
from pacs_server.errors import ConfigError
from pacs_server.services.routing import Alteration, Facts, Rules, compile_rules

REMOTES = "remote_aes:\n  - {ae_title: WS1, host: 127.0.0.1, port: 104}\n"
NOON = datetime(2026, 3, 29, 12)


def config_of(tmp_path: Path, rules: str, routing: str = "") -> Config:
    file = tmp_path / "pacs_server.yaml"
    text = textwrap.indent(textwrap.dedent(rules).strip(), "    ")
    file.write_text(f"{REMOTES}routing:\n{routing}  rules:\n{text}\n")
    return load(file, environ={}, overrides={})


def rules_of(tmp_path: Path, rules: str, routing: str = "") -> Rules:
    return compile_rules(config_of(tmp_path, rules, routing))


def facts(calling_ae: str = "CT1", **values: str) -> Facts:
    return Facts(1, "1.1", "1.1.1", "1.1.1.1", calling_ae, values)


@pytest.mark.parametrize(
    ("match", "values", "applies"),
    [
        ("{Modality: CT}", {"Modality": "CT"}, True),
        ("{Modality: CT}", {"Modality": "MR"}, False),
        ("{Modality: CT}", {}, False),
        ("{Modality: [CT, MR]}", {"Modality": "MR"}, True),
        ('{Modality: "*"}', {}, True),
        ('{AccessionNumber: ""}', {"AccessionNumber": ""}, True),
        ('{AccessionNumber: ""}', {"AccessionNumber": "1"}, False),
        ("{CallingAETitle: CT1}", {}, True),
        ('{CallingAETitle: "MR*"}', {}, False),
        ('{StationName: "ROOM?"}', {"StationName": "ROOM4"}, True),
        ("{PatientName: mueller}", {"PatientName": "M\u00fcller"}, False),
        ("{PatientName: m\u00fcller}", {"PatientName": "Muller"}, True),
        ('{StudyDate: "20260101-"}', {"StudyDate": "20260329"}, True),
        ('{StudyDate: "20270101-"}', {"StudyDate": "20260329"}, False),
        ("{ModalitiesInStudy: SR}", {"ModalitiesInStudy": "CT\\SR"}, True),
        ("{RequestedProcedurePriority: STAT}", {"RequestedProcedurePriority": "STAT"}, True),
        ('{TimeOfDay: "07:00-18:00"}', {}, True),
        ('{TimeOfDay: "22:00-06:00"}', {}, False),
        ("{Modality: CT, StationName: ROOM4}", {"Modality": "CT", "StationName": "ROOM5"}, False),
    ],
)
def test_all_keys_of_a_rule_have_to_match(tmp_path: Path, match: str, values: dict[str, str], applies: bool) -> None:
    (rule,) = rules_of(tmp_path, f"- {{name: a, forward: WS1, match: {match}}}").rules
    assert (rule.refusal(facts(**values), NOON) is None) is applies


def test_unless_leaves_out_what_fulfils_all_of_it(tmp_path: Path) -> None:
    (rule,) = rules_of(tmp_path, "- {name: a, forward: WS1, unless: {Modality: SR, StationName: X}}").rules
    assert rule.refusal(facts(Modality="SR"), NOON) is None
    assert (
        rule.refusal(facts(Modality="SR", StationName="X"), NOON) == "excluded by unless: Modality: SR; StationName: X"
    )


def test_a_rule_says_why_it_does_not_apply(tmp_path: Path) -> None:
    (rule,) = rules_of(
        tmp_path, '- {name: a, forward: WS1, match: {Modality: [CT, MR], TimeOfDay: "22:00-06:00"}}'
    ).rules
    assert rule.refusal(facts(), NOON) == "Modality is empty, not 'CT', 'MR'"
    assert rule.refusal(facts(Modality="CT"), NOON) == "TimeOfDay is 12:00, not '22:00-06:00'"


def test_rules_that_are_off_are_left_out(tmp_path: Path) -> None:
    rules = rules_of(
        tmp_path, "- {name: a, forward: WS1, enabled: false, match: {Modality: CT}}\n- {name: b, forward: WS1}"
    )
    assert [rule.name for rule in rules.rules] == ["b"]
    assert rules.attributes == ()


def test_what_is_changed_is_kept_in_a_task_as_it_was_decided(tmp_path: Path) -> None:
    (rule,) = rules_of(
        tmp_path,
        """
        - name: a
          forward: [WS1]
          deidentify: true
          compress: JPEGLSLossless
          changes:
            - set: {PatientComments: x}
            - remove: OtherPatientIDs
            - replace: {InstitutionName: {old: North, new: South}}
            - copy_from: {AccessionNumber: StudyID}
        """,
    ).rules
    assert Alteration.of_json(rule.alteration.as_json()) == rule.alteration
    assert [str(each.operation) for each in rule.alteration.changes] == ["set", "remove", "replace", "copy"]
    assert rule.alteration.compress == "1.2.840.10008.1.2.4.80"
    assert not Alteration.of_json({})


@pytest.mark.parametrize(
    ("rule", "place", "text"),
    [
        ("{name: a, forward: WS2}", "line 5: routing.rules[0].forward", "WS2 is not in remote_aes (WS1)"),
        ("{name: a}", "line 5: routing.rules[0]", "does nothing"),
        ("{name: a b, forward: WS1}", "line 5: routing.rules[0].name", "letters, digits"),
        ("{name: a, forwards: WS1}", "line 5: routing.rules[0].forwards", "did you mean forward?"),
        ("{name: a, forward: WS1, when: later}", "line 5: routing.rules[0].when", "not possible"),
        (
            "{name: a, forward: WS1, match: {Mod: CT}}",
            "line 5: routing.rules[0].match.Mod",
            "no attribute of the index",
        ),
        ("{name: a, forward: WS1, match: {StudyDate: x}}", "routing.rules[0].match.StudyDate", "no valid date"),
        ("{name: a, forward: WS1, match: {TimeOfDay: x}}", "routing.rules[0].match.TimeOfDay", "22:00-06:00"),
        ("{name: a, forward: WS1, match: {Finding: X}}", "routing.rules[0].match.Finding", "when: finding"),
        ("{name: a, forward: WS1, match: {ProcedureCodeSequence: X}}", "ProcedureCodeSequence", "is a sequence"),
        ("{name: a, forward: WS1, compress: JPEG}", "routing.rules[0].compress", "none of JPEGLSLossless"),
        ("{name: a, label: x, deidentify: true}", "routing.rules[0]", "sends nothing"),
        ("{name: a, webhook: 'https://x/y'}", "routing.rules[0].webhook", "webhook_secret_file"),
        ("{name: a, webhook: 'http://ris.example/y'}", "routing.rules[0].webhook", "must begin with https://"),
        ("{name: a, webhook: 'https://u:p@x/y'}", "routing.rules[0].webhook", "without a user"),
        ("{name: a, forward: WS1, changes: [{set: {Rows: '1'}}]}", "routing.rules[0].changes[0]", "cannot be changed"),
        ("{name: a, forward: WS1, changes: [{}]}", "routing.rules[0].changes[0]", "needs one of"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_line(tmp_path: Path, rule: str, place: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules_of(tmp_path, f"- {rule}")
    assert place in str(caught.value)
    assert text in str(caught.value)


def test_names_are_unique(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"line 6: routing.rules\[1\].name: a is already the name of routing.rules\[0\]"
    ):
        rules_of(tmp_path, "- {name: a, forward: WS1}\n- {name: a, forward: WS1}")
