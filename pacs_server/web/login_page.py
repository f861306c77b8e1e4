"""The pages for logging in and out: plain HTML without scripts, under a strict Content Security Policy."""

import base64
import hashlib
from html import escape
from http import HTTPStatus
from typing import Final

from starlette.responses import HTMLResponse, Response

_STYLE: Final = """
:root {
  color-scheme: light dark;
  --ink: #16202a; --paper: #f3f6f8; --card: #fff; --line: #b9c6d0; --deed: #0b5a86; --warn: #a3261c;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7edf2; --paper: #10171d; --card: #1a242d; --line: #4a5b68; --deed: #5db3e0; --warn: #ff9a90 }
}
* { box-sizing: border-box }
body {
  margin: 0; min-height: 100vh; padding: 1rem; display: grid; place-items: center;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
}
main {
  width: min(24rem, 100%); padding: 2rem;
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
}
h1 { margin: 0 0 1.25rem; font-size: 1.4rem; line-height: 1.25 }
label { display: block; margin: 1rem 0 .25rem; font-weight: 600 }
input {
  width: 100%; padding: .6rem .75rem; font: inherit; color: inherit;
  background: var(--paper); border: 1px solid var(--line); border-radius: .4rem;
}
button, a.deed {
  display: block; width: 100%; margin-top: 1.5rem; padding: .65rem; font: inherit; font-weight: 600; cursor: pointer;
  text-align: center; text-decoration: none; color: var(--card);
  background: var(--deed); border: 0; border-radius: .4rem;
}
a.other { color: var(--deed); background: none; border: 1px solid var(--deed) }
:focus-visible { outline: 3px solid var(--deed); outline-offset: 2px }
p.problem { margin: 0; padding: .6rem .75rem; color: var(--warn); border: 1px solid var(--warn); border-radius: .4rem }
"""
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cache-control": "no-store",
    # With no-referrer, browsers send `Origin: null` with the form.
    "referrer-policy": "same-origin",
}


def login_page(
    form_token: str, target: str, *, problem: str = "", passwords: bool, provider: str, name: str = "", prefix: str = ""
) -> Response:
    """The page that asks for name and password, offers the provider at `provider`, or both.

    `prefix` is the path of this server behind its proxy.
    """
    content = f'<p class="problem" role="alert">{escape(problem)}</p>\n' if problem else ""
    if passwords:
        content += f"""<form method="post" action="{escape(prefix)}/login">
<input type="hidden" name="token" value="{escape(form_token)}">
<input type="hidden" name="next" value="{escape(target)}">
<label for="name">User name</label>
<input id="name" name="name" value="{escape(name)}" maxlength="64" required autofocus
 autocomplete="username" autocapitalize="none" spellcheck="false">
<label for="password">Password</label>
<input id="password" name="password" type="password" maxlength="1024" required autocomplete="current-password">
<button type="submit">Log in</button>
</form>
"""
    if provider:
        look = "deed other" if passwords else "deed"
        content += f'<a class="{look}" href="{escape(provider)}">Log in with your organisation</a>\n'
    return _page("Log in to pacs-server", content, HTTPStatus.UNAUTHORIZED if problem else HTTPStatus.OK)


def logout_page(form_token: str, user: str, prefix: str = "") -> Response:
    """The page that asks whether to log out, since following a link must not do it."""
    return _page(
        "Log out of pacs-server",
        f"""<p>You are logged in as {escape(user)}.</p>
<form method="post" action="{escape(prefix)}/logout">
<input type="hidden" name="token" value="{escape(form_token)}">
<button type="submit">Log out</button>
</form>
""",
        HTTPStatus.OK,
    )


def _page(title: str, content: str, status: int) -> Response:
    return HTMLResponse(_PAGE.format(title=title, style=_STYLE, content=content), status, _HEADERS)
