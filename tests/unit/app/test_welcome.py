"""The commands that the server prints when it has started are ones that it accepts."""

import pytest

from pacs_server.app.ports import Addresses
from pacs_server.app.welcome import welcome
from pacs_server.config import AccessControlConfig, Config, ServerConfig, TLSConfig, UserIdentityConfig

PLAIN = ("127.0.0.1", 104)
SECURE = ("127.0.0.1", 2762)


def tried(at: Addresses | None = None, title: str = "PACS", **sections: object) -> list[str]:
    """What is printed after the addresses."""
    config = Config(server=ServerConfig(ae_title=title), **sections)  # type: ignore[arg-type]
    at = at or Addresses(PLAIN)
    lines = list(welcome(config, at))
    assert lines[0].endswith(f"listening on {at.dicom[0]} port {at.dicom[1]} as {title}")
    return [line for line in lines[1:] if not line.startswith(("DICOM over TLS", "monitoring", "HL7"))]


def access(*peers: dict[str, object], **others: object) -> AccessControlConfig:
    return AccessControlConfig.model_validate({"peers": peers, **others})


def test_without_rules_the_tools_need_no_title() -> None:
    expected = ["try: echoscu -aec PACS 127.0.0.1 104", "     storescu -aec PACS 127.0.0.1 104 image.dcm"]
    assert tried() == expected
    assert tried(Addresses(("0.0.0.0", 104))) == expected


def test_all_addresses_are_told() -> None:
    at = Addresses(PLAIN, SECURE, ("127.0.0.1", 9090), ("127.0.0.1", 2575), ("127.0.0.1", 8080))
    assert list(welcome(Config(), at))[1:5] == [
        *("DICOM over TLS at 127.0.0.1 port 2762", "monitoring at http://127.0.0.1:9090/status"),
        *("web at http://127.0.0.1:8080/", "HL7 orders at 127.0.0.1 port 2575"),
    ]


def test_an_ae_title_with_a_space_is_quoted() -> None:
    assert tried(title="MY PACS")[0] == "try: echoscu -aec 'MY PACS' 127.0.0.1 104"


@pytest.mark.parametrize(
    ("rules", "echo", "store"),
    [
        (access({"ae_title": "CT1"}), " -aet CT1", " -aet CT1"),
        (access(allowed_ae_titles=["CT*"]), " -aet CT", " -aet CT"),
        (access(allowed_ae_titles=["MR?", "STORESCU"]), " -aet MR1", ""),
        (access({"ae_title": "WEB", "allow": ["find"]}, {"ae_title": "CT1"}), " -aet CT1", " -aet CT1"),
        (access({"ae_title": "FAR", "addresses": ["10.0.0.0/8"]}, {"ae_title": "NEAR"}), " -aet NEAR", " -aet NEAR"),
        (access({"ae_title": "ECHOSCU", "allow": ["find"]}, allowed_ae_titles=["*"]), " -aet ANY", ""),
        (access({"ae_title": "A", "allow": ["store"]}, {"ae_title": "B", "allow": ["echo"]}), " -aet B", " -aet A"),
    ],
)
def test_access_rules_decide_the_title(rules: AccessControlConfig, echo: str, store: str) -> None:
    assert tried(access_control=rules) == [
        f"try: echoscu{echo} -aec PACS 127.0.0.1 104",
        f"     storescu{store} -aec PACS 127.0.0.1 104 image.dcm",
    ]


def test_a_tool_that_may_not_come_in_is_not_proposed() -> None:
    rules = access({"ae_title": "CT1", "allow": ["store"]})
    assert tried(access_control=rules) == ["try: storescu -aet CT1 -aec PACS 127.0.0.1 104 image.dcm"]
    for closed in (access({"ae_title": "FAR", "addresses": ["10.0.0.0/8"]}), access(allowed_ae_titles=[])):
        (line,) = tried(access_control=closed)
        assert line == "no peer on this machine is let in; what peers tried: pacs-server peers seen"


def test_tls_is_spoken_where_it_has_to_be() -> None:
    tls = TLSConfig(enabled=True, port=2762)
    alone = tls.model_copy(update={"port": None})
    assert tried(Addresses(PLAIN, PLAIN), tls=alone)[0] == "try: echoscu -aec PACS +tla -ic 127.0.0.1 104"
    assert tried(Addresses(PLAIN, SECURE), tls=tls)[0] == "try: echoscu -aec PACS 127.0.0.1 104"
    rules = access({"ae_title": "CT1", "require_tls": True})
    assert tried(Addresses(PLAIN, SECURE), tls=tls, access_control=rules)[0] == (
        "try: echoscu -aet CT1 -aec PACS +tla -ic 127.0.0.1 2762"
    )


def test_what_the_peer_has_to_bring_is_named() -> None:
    tls = TLSConfig.model_validate({"enabled": True, "require_client_cert": True, "ca_path": "ca.crt"}, strict=False)
    assert tried(Addresses(PLAIN, PLAIN), tls=tls)[0] == (
        "try: echoscu -aec PACS +tls client.key client.crt -ic 127.0.0.1 104"
    )
    # echoscu cannot name a user.
    assert tried(user_identity=UserIdentityConfig(mode="required")) == [
        "try: storescu -aec PACS -usr NAME -pwd PASSWORD 127.0.0.1 104 image.dcm"
    ]
