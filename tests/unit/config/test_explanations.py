"""The explanations of settings are the sentences of the document."""

from pacs_server.config.explanations import Explanation, explanations, read
from pacs_server.config.model import settings


def test_every_setting_is_explained() -> None:
    found = explanations()
    # Its keys are explained one by one.
    assert [key for key, _ in settings() if key not in found] == ["remote_aes", "polling", "prefetch"]
    assert all(each.effect.endswith((".", ":", ")")) for each in found.values())
    assert not [key for key, each in found.items() if "](" in each.effect or "**" in each.effect]


def test_links_and_emphasis_become_text() -> None:
    text = (
        "| `a.b` | `1` | `x \\| y` | reload | What *it* does ([c.md](c.md)), see [there](d.md): `*`. |\n| no | row |\n"
    )
    assert read(text) == {"a.b": Explanation("`1`", "`x | y`", "What it does, see there: `*`.")}
