"""The types of settings, each with its checks, and the base class of the sections."""

import ipaddress
import re
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) *([KMGT]i?B|B)", re.IGNORECASE)
# Ten years of 365 days, in seconds.
LONGEST_DURATION: Final = 315_360_000
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) *([smhdwy])", re.IGNORECASE)
_HTTP_URL: Final = re.compile(r"https?://[^\s?#/@]+(/[^\s?#]*)?", re.IGNORECASE)
_DATABASE_URL: Final = re.compile(r"(postgresql|sqlite)(\+[a-z0-9_]+)?://")
SHORTEST_KEY: Final = 32
# pydicom does not know these yet.
_NEW_TRANSFER_SYNTAXES: Final = {
    "JPEGXLLossless": "1.2.840.10008.1.2.4.110",
    "JPEGXLJPEGRecompression": "1.2.840.10008.1.2.4.111",
    "JPEGXL": "1.2.840.10008.1.2.4.112",
    "DeflatedImageFrameCompression": "1.2.840.10008.1.2.8.1",
}


def _check_text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be printable text and not empty")
    return text.strip()


def _check_host(host: str) -> str:
    host = _check_text(host)
    if re.search(r"[\s/]", host):
        raise ValueError(f"{host} is not a host name or address")
    return host


def _check_ae_title(title: str) -> str:
    # PS3.5 6.2: a value of VR AE has at most 16 characters of the default repertoire, without backslash and control
    # characters. Leading and trailing spaces are not significant, and a title of spaces only is not allowed.
    stripped = title.strip(" ")
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", stripped):
        raise ValueError("an AE title has 1 to 16 ASCII characters, none of them a backslash or control character")
    return stripped


def _check_path(path: Path) -> Path:
    text = str(path)
    if not text.isprintable():  # NUL and lone surrogates, too, must not reach the operating system
        raise ValueError("a path must be printable text")
    return path


def _path_text(value: object) -> object:
    if value == "":
        raise ValueError("a path may not be empty")
    return Path(value) if isinstance(value, str) else value


def _check_port(port: int) -> int:
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is not a port (0 to 65535)")
    return port


def check_remote_port(port: int) -> int:
    """Return a port that one can connect to, so not 0. Raises ValueError."""
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is not a port (1 to 65535)")
    return port


def parse_size(value: object) -> object:
    """The number of bytes that a text such as 500MB (10**6) or 2GiB (2**30) means. Raises ValueError.

    A value that is not a text is returned as it is.
    """
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"{value[:40]!r} is not a size such as 500MB, 1GB or 2GiB")
    unit = found[2].upper()
    base = 1024 if "I" in unit else 1000
    return int(float(found[1]) * base ** "BKMGT".index(unit[0]))


def parse_duration(value: object) -> object:
    """The number of seconds that a text such as 30s, 15m, 12h, 7d, 2w or 5y (of 365 days) means, ten years at most.

    A value that is not a text is returned as it is. Raises ValueError.
    """
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"{value[:40]!r} is not a time such as 30s, 15m, 12h, 7d or 5y")
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800, "y": 31_536_000}[found[2].lower()]
    seconds = float(found[1]) * unit
    if seconds > LONGEST_DURATION:
        raise ValueError(f"{value[:40]!r} is longer than ten years, which is the most")
    return seconds


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def empty_is_none(value: object) -> object:
    """Return None for an empty text, and any other value as it is."""
    return None if value == "" else value


def check_long_enough(key: SecretStr | None) -> SecretStr | None:
    """Return a key for MACs if it is too long to be guessed. Raises ValueError, which does not quote the key."""
    if key is not None and len(key.get_secret_value()) < SHORTEST_KEY:
        raise ValueError(f"the key needs at least {SHORTEST_KEY} characters")
    return key


def check_url(url: str | None) -> str | None:
    """Return the URL of a database. Raises ValueError, which does not quote the URL: it may hold a password."""
    if url is not None and (not url.isprintable() or not _DATABASE_URL.match(url)):
        raise ValueError("the address must begin with postgresql:// or sqlite:///")
    return url


def check_http_url(url: str) -> str:
    """Return the address of an HTTP service; it may be empty. Raises ValueError."""
    if url and not _HTTP_URL.fullmatch(url):
        raise ValueError(f"{url[:60]!r} is not an address such as https://archive.example.org/dicom-web")
    return url


def check_name(name: str) -> str:
    """Return a name that people give to something. Raises ValueError."""
    name = name.strip()
    if not 1 <= len(name) <= 64 or not name.isascii() or not name.isprintable():
        raise ValueError("a name has 1 to 64 printable ASCII characters")
    return name


def check_transfer_syntax(text: str) -> str:
    """The UID of a transfer syntax, given as its UID or keyword, such as JPEG2000Lossless. Raises ValueError."""
    from pydicom.uid import AllTransferSyntaxes  # importing it takes long

    known = {uid.keyword: str(uid) for uid in AllTransferSyntaxes} | _NEW_TRANSFER_SYNTAXES
    for keyword, uid in known.items():
        if text in (uid, keyword):
            return uid
    raise ValueError(f"{text[:64]!r} is not a transfer syntax, by UID or keyword such as JPEG2000Lossless")


def _check_network(value: object) -> object:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    text = str(value)[:60]  # ip_network would take a number for an address
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not an address or network such as 10.1.0.0/16") from None


AETitle = Annotated[str, AfterValidator(_check_ae_title)]
Host = Annotated[str, AfterValidator(_check_host)]
Port = Annotated[int, AfterValidator(_check_port)]
FilePath = Annotated[Path, AfterValidator(_check_path), BeforeValidator(_path_text)]
OptionalPath = Annotated[FilePath | None, BeforeValidator(empty_is_none)]
Secret = Annotated[SecretStr | None, Field(strict=False), BeforeValidator(empty_is_none)]
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_check_network)]
Seconds = Annotated[float, Field(gt=0, le=604800, allow_inf_nan=False)]
Duration = Annotated[float, Field(gt=0, le=LONGEST_DURATION, allow_inf_nan=False), BeforeValidator(parse_duration)]
Count = Annotated[int, Field(ge=1, le=100_000)]


class TakesEffect(Enum):
    """When a changed setting takes effect in a running server."""

    AT_RELOAD = "reload"
    AT_RESTART = "restart"


_T = TypeVar("_T")
# The type of each setting says when a change takes effect: `port: Restart[Port]`.
Live = Annotated[_T, TakesEffect.AT_RELOAD]
Restart = Annotated[_T, TakesEffect.AT_RESTART]


class Section(BaseModel):
    """A section of the settings: frozen, and unknown keys are refused."""

    # Pydantic's own messages must not show a wrong value: it may be a secret.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
