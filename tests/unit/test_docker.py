"""The container files against the code: commands, ports, paths and settings that they name."""

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pacs_server.config import Config
from pacs_server.config_file import load

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PORTS = {Config().server.port, Config().monitoring.metrics_port}


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


INSTRUCTIONS = _instructions()
LAST_STAGE = INSTRUCTIONS[max(n for n, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM") :]


def _one(word: str) -> str:
    [argument] = [rest for name, rest in LAST_STAGE if name == word]
    return argument


def _image_environment() -> dict[str, str]:
    pairs = (pair.split("=", 1) for name, rest in LAST_STAGE if name == "ENV" for pair in rest.split())
    return {key: value.strip('"') for key, value in pairs}


def _compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text())
    return found


def _services(name: str) -> dict[str, Any]:
    """The services, with what `extends` brings: lists and mappings of both, the own values winning."""
    services = dict(_compose(name)["services"])
    for title, service in services.items():
        if base := service.get("extends"):
            merged = dict(_services(base["file"])[base["service"]])
            for key, value in service.items():
                merged[key] = merged.get(key, {}) | value if isinstance(value, dict) else value
            services[title] = merged
    return services


def _settings(name: str) -> Config:
    """What the server makes of the environment in the container, in the image's working directory."""
    environment = _image_environment() | _services(name)["pacs-server"]["environment"]
    return load(None, environ=environment, overrides={})


def test_every_base_image_has_a_python_that_the_project_supports() -> None:
    versions = [re.match(r"python:(\d+\.\d+)-slim", rest) for word, rest in INSTRUCTIONS if word == "FROM"]
    assert len(versions) == 2
    assert all(v and f"Programming Language :: Python :: {v[1]}" in PROJECT["classifiers"] for v in versions)


def test_what_is_copied_exists_and_is_all_that_the_wheel_needs() -> None:
    copied = [rest.split()[:-1] for word, rest in INSTRUCTIONS if word == "COPY" and "--from" not in rest]
    sources = {source for line in copied for source in line}
    assert all((ROOT / source).exists() for source in sources)
    assert sources >= {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "pacs_server", "migrations"}


def test_the_wheel_is_installed_with_extras_that_exist() -> None:
    [extras] = [
        found for word, rest in INSTRUCTIONS if word == "RUN" for found in re.findall(r"\.whl\)\[(.*?)\]", rest)
    ]
    assert set(extras.split(",")) == {"postgres", "codecs"} <= PROJECT["optional-dependencies"].keys()


def test_the_entry_point_is_the_projects_command_in_exec_form() -> None:
    assert json.loads(_one("ENTRYPOINT")) == ["pacs-server"]
    assert "pacs-server" in PROJECT["scripts"]
    assert _one("STOPSIGNAL") == "SIGTERM"


def test_the_server_is_not_root_and_owns_its_volume() -> None:
    user, volume = _one("USER"), _one("VOLUME")
    assert user not in ("root", "0")
    setup = _one("RUN")
    assert f"-o {user} " in setup
    assert setup.split()[-1] == volume == _one("WORKDIR")
    words = [word for word, _ in LAST_STAGE]
    assert words.index("RUN") < words.index("USER") < words.index("ENTRYPOINT")


def test_the_ports_are_those_of_the_settings() -> None:
    assert {int(port) for port in _one("EXPOSE").split()} == PORTS


def test_the_health_check_asks_the_monitoring_port() -> None:
    command = json.loads(_one("HEALTHCHECK").partition(" CMD ")[2])
    assert command[:2] == ["python", "-c"]
    ast.parse(command[2])
    [address] = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", command[2])
    assert address == (str(Config().monitoring.metrics_port), "/healthz")
    assert '"/healthz"' in (ROOT / "pacs_server/monitor.py").read_text()


@pytest.mark.parametrize("name", ["compose.yaml", "compose.postgres.yaml"])
def test_the_environment_makes_a_valid_configuration_that_peers_can_reach(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # stands for the working directory of the image, its volume
    config = _settings(name)
    assert config.server.host == config.monitoring.host == "0.0.0.0"
    assert {config.server.port, config.monitoring.metrics_port} == PORTS
    assert config.storage.directory.is_relative_to(tmp_path)
    assert config.database.url is not None or config.database.path.is_relative_to(tmp_path)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.postgres.yaml"])
def test_the_service_publishes_the_ports_and_keeps_the_volume(name: str) -> None:
    service = _services(name)["pacs-server"]
    published = {tuple(port.rsplit(":", 2)[-2:]) for port in service["ports"]}
    assert published == {(str(port), str(port)) for port in PORTS}
    [volume] = service["volumes"]
    source, target = volume.split(":")
    assert source in _compose(name)["volumes"]
    assert target == _one("VOLUME")
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DOCKER / "Dockerfile")
    assert int(service["stop_grace_period"].removesuffix("s")) > Config().server.shutdown_timeout


def test_metrics_are_published_to_the_machine_itself_only() -> None:
    ports = _services("compose.yaml")["pacs-server"]["ports"]
    assert f"127.0.0.1:{Config().monitoring.metrics_port}:{Config().monitoring.metrics_port}" in ports


def test_the_server_waits_for_a_database_that_its_url_names() -> None:
    services = _services("compose.postgres.yaml")
    address = services["pacs-server"]["environment"]["PACS_SERVER__DATABASE__URL"]
    url = re.fullmatch(r"postgresql\+psycopg://(\w+)@(\w+):5432/(\w+)", address)
    assert url is not None
    user, host, database = url.groups()
    assert services["pacs-server"]["depends_on"] == {host: {"condition": "service_healthy"}}
    environment = services[host]["environment"]
    assert (environment["POSTGRES_USER"], environment["POSTGRES_DB"]) == (user, database)
    check = services[host]["healthcheck"]["test"]
    assert check == ["CMD", "pg_isready", "--username", user, "--dbname", database]
    assert services[host]["image"] == "postgres:16"


def test_the_password_comes_from_outside() -> None:
    services = _services("compose.postgres.yaml")
    from_outside = "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}"
    assert services["database"]["environment"]["POSTGRES_PASSWORD"] == from_outside
    assert services["pacs-server"]["environment"]["PGPASSWORD"] == from_outside


def test_what_the_database_keeps_is_in_a_volume() -> None:
    compose = _compose("compose.postgres.yaml")
    [volume] = compose["services"]["database"]["volumes"]
    source, target = volume.split(":")
    assert (source in compose["volumes"], target) == (True, "/var/lib/postgresql/data")
