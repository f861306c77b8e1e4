"""What rooms with lists have in common: the link to the next page, by the place at which this one ends."""

from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request


def following(request: Request, address: str | None) -> str | None:
    """The link to the next page of a room, from the address of the next page of its operation; None on the last one."""
    if address is None:
        return None
    given = parse_qs(urlsplit(address).query)
    return f"?{request.url.include_query_params(after=given['after'][0]).query}"
