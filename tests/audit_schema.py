"""The audit message schema of PS3.15 A.5.1.1 as a table, and a RELAX NG validator made of it."""

from functools import cache

from lxml import etree

_ID = "csd-code! codeSystemName! displayName? originalText!"


def _numbers(last: int) -> str:
    return "|".join(str(number) for number in range(1, last + 1))


# Element: attributes, with ! when required and the values or type behind a colon; children in order, with + * ?
# for how often (once without), in parentheses a choice; the type of the text, if it holds any.
SCHEMA: dict[str, tuple[str, str, str]] = {
    "AuditMessage": (
        "",
        "EventIdentification ActiveParticipant+ AuditSourceIdentification ParticipantObjectIdentification*",
        "",
    ),
    "EventIdentification": (
        "EventActionCode?:C|R|U|D|E EventDateTime!:dateTime EventOutcomeIndicator!:0|4|8|12",
        "EventID EventTypeCode* EventOutcomeDescription?",
        "",
    ),
    "EventID": (_ID, "", ""),
    "EventTypeCode": (_ID, "", ""),
    "EventOutcomeDescription": ("", "", "string"),
    "ActiveParticipant": (
        "UserID!:string AlternativeUserID?:string UserName?:string UserIsRequestor!:boolean"
        f" NetworkAccessPointID? NetworkAccessPointTypeCode?:{_numbers(5)}",
        "RoleIDCode* MediaIdentifier?",
        "",
    ),
    "RoleIDCode": (_ID, "", ""),
    "MediaIdentifier": ("", "MediaType", ""),
    "MediaType": (_ID, "", ""),
    "AuditSourceIdentification": ("AuditEnterpriseSiteID? AuditSourceID!", "AuditSourceTypeCode*", ""),
    "AuditSourceTypeCode": (f"csd-code!:{_numbers(9)}", "", ""),
    "ParticipantObjectIdentification": (
        f"ParticipantObjectID! ParticipantObjectTypeCode?:{_numbers(4)}"
        f" ParticipantObjectTypeCodeRole?:{_numbers(26)} ParticipantObjectDataLifeCycle?:{_numbers(15)}"
        " ParticipantObjectSensitivity?",
        "ParticipantObjectIDTypeCode (ParticipantObjectName|ParticipantObjectQuery) ParticipantObjectDetail*"
        " ParticipantObjectDescription*",
        "",
    ),
    "ParticipantObjectIDTypeCode": (_ID, "", ""),
    "ParticipantObjectName": ("", "", "token"),
    "ParticipantObjectQuery": ("", "", "base64Binary"),
    "ParticipantObjectDetail": ("type! value!:base64Binary", "", ""),
    "ParticipantObjectDescription": (
        "",
        "MPPS* Accession* SOPClass* ParticipantObjectContainsStudy? Encrypted? Anonymized?",
        "",
    ),
    "MPPS": ("UID!", "", ""),
    "Accession": ("Number!", "", ""),
    "SOPClass": ("UID? NumberOfInstances!:integer", "Instance*", ""),
    "Instance": ("UID!", "", ""),
    "ParticipantObjectContainsStudy": ("", "StudyIDs*", ""),
    "StudyIDs": ("UID!", "", ""),
    "Encrypted": ("", "", "boolean"),
    "Anonymized": ("", "", "boolean"),
}

_REPEAT = {"+": "oneOrMore", "*": "zeroOrMore", "?": "optional"}


def _value(kind: str) -> str:
    if "|" in kind:
        return "<choice>{}</choice>".format("".join(f"<value>{one}</value>" for one in kind.split("|")))
    return f'<data type="{kind or "token"}"/>'


def _attribute(said: str) -> str:
    name, _, kind = said.partition(":")
    attribute = f'<attribute name="{name[:-1]}">{_value(kind)}</attribute>'
    return attribute if name[-1] == "!" else f"<optional>{attribute}</optional>"


def _child(said: str) -> str:
    if said[0] == "(":
        return "<choice>{}</choice>".format("".join(_child(one) for one in said[1:-1].split("|")))
    if repeat := _REPEAT.get(said[-1]):
        return f"<{repeat}>{_child(said[:-1])}</{repeat}>"
    return f'<ref name="{said}"/>'


def _definition(name: str) -> str:
    attributes, children, text = SCHEMA[name]
    inside = "".join(_attribute(one) for one in attributes.split()) + "".join(_child(one) for one in children.split())
    inside += f'<data type="{text}"/>' if text else ""
    return f'<define name="{name}"><element name="{name}">{inside or "<empty/>"}</element></define>'


@cache
def schema() -> etree.RelaxNG:
    """The validator."""
    grammar = (
        '<grammar xmlns="http://relaxng.org/ns/structure/1.0"'
        ' datatypeLibrary="http://www.w3.org/2001/XMLSchema-datatypes">'
        '<start><ref name="AuditMessage"/></start>'
    )
    grammar += "".join(_definition(name) for name in SCHEMA) + "</grammar>"
    return etree.RelaxNG(etree.fromstring(grammar))


def check(xml: bytes) -> etree._Element:
    """Parse a message; raises AssertionError when it is not valid."""
    root = etree.fromstring(xml)
    validator = schema()
    assert validator.validate(root), validator.error_log
    return root
