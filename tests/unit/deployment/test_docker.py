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
from pacs_server.config.load import load

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
POSTGRES = "compose.postgres.yaml"
FILES = ["compose.yaml", POSTGRES]
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


def _settings(name: str, secrets: Path) -> Config:
    """What the server makes of the environment in the container, in the image's working directory."""
    environment = _image_environment() | _services(name)["pacs-server"]["environment"]
    secrets.mkdir()
    (secrets / "database_url").write_text(f"{_written_by_hand('database_url')}\n")
    environment = {key: value.replace("/run/secrets", str(secrets)) for key, value in environment.items()}
    return load(None, environ=environment, overrides={})


def _written_by_hand(secret: str) -> str:
    """What the comment in the compose file says to write into the file of a secret."""
    found = re.search(rf'^#   echo "(.+)" > docker/secrets/{secret}$', (DOCKER / POSTGRES).read_text(), re.MULTILINE)
    assert found
    return re.sub(r"\$\(.*?\)", "pass", found[1])


def test_every_base_image_has_a_python_that_the_project_supports() -> None:
    versions = [re.match(r"python:(\d+\.\d+)-slim", rest) for word, rest in INSTRUCTIONS if word == "FROM"]
    assert len(versions) == 3
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


def test_the_viewer_is_made_in_a_stage_of_its_own_and_installed() -> None:
    words = [f"{word} {rest}" for word, rest in INSTRUCTIONS]
    made = words.index("RUN python .ci/viewer --dist /wheels")
    build = next(n for n, each in enumerate(words) if each.startswith("FROM ") and each.endswith(" AS build"))
    taken = words.index("COPY --from=viewer /wheels /viewer")
    installed = next(n for n, each in enumerate(words) if "/viewer/pacs_server_ohif-*.whl" in each)
    last = len(INSTRUCTIONS) - len(LAST_STAGE)
    assert words[: made + 1][0].endswith(" AS viewer")
    assert made < build < taken < installed < last
    assert 'MODULE = "pacs_server_ohif"' in (ROOT / ".ci/viewer").read_text()


def test_the_entry_point_is_the_projects_command_in_exec_form() -> None:
    assert json.loads(_one("ENTRYPOINT")) == ["pacs-server"]
    assert "pacs-server" in PROJECT["scripts"]
    assert _one("STOPSIGNAL") == "SIGTERM"


def test_the_server_is_not_root_and_owns_its_volume() -> None:
    uid, volume = _one("USER"), _one("VOLUME")
    setup = _one("RUN")
    # A number tells an orchestrator that it is not root, and stays the same for the files in the volume.
    assert re.match(rf"useradd --uid {uid.partition(':')[0]} --user-group .* pacs ", setup)
    assert uid == "10001:10001"
    assert "-o pacs -g pacs -m 0700 " in setup
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
    assert '"/healthz"' in (ROOT / "pacs_server/web/monitor.py").read_text()


@pytest.mark.parametrize("name", FILES)
def test_the_environment_makes_a_valid_configuration_that_peers_can_reach(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # stands for the working directory of the image, its volume
    config = _settings(name, tmp_path / "secrets")
    assert config.server.host == config.monitoring.host == "0.0.0.0"
    assert {config.server.port, config.monitoring.metrics_port} == PORTS
    assert config.storage.directory.is_relative_to(tmp_path)
    assert config.database.url is not None or config.database.path.is_relative_to(tmp_path)


@pytest.mark.parametrize("name", FILES)
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
    services = _services(POSTGRES)
    url = re.fullmatch(r"postgresql://(\w+):pass@(\w+):5432/(\w+)", _written_by_hand("database_url"))
    assert url is not None
    user, host, database = url.groups()
    assert services["pacs-server"]["depends_on"] == {host: {"condition": "service_healthy"}}
    environment = services[host]["environment"]
    assert (environment["POSTGRES_USER"], environment["POSTGRES_DB"]) == (user, database)
    check = services[host]["healthcheck"]["test"]
    assert check == ["CMD", "pg_isready", "--username", user, "--dbname", database]
    assert services[host]["image"] == "postgres:16"


def test_passwords_come_from_files_that_are_not_in_the_repository() -> None:
    compose, services = _compose(POSTGRES), _services(POSTGRES)
    settings = {
        "pacs-server": ("PACS_SERVER__DATABASE__URL", "file:/run/secrets/database_url"),
        "database": ("POSTGRES_PASSWORD_FILE", "/run/secrets/postgres_password"),
    }
    for service, (variable, path) in settings.items():
        assert services[service]["environment"][variable] == path
        assert services[service]["secrets"] == [path.rpartition("/")[2]]
    assert compose["secrets"] == {name: {"file": f"secrets/{name}"} for name in ("database_url", "postgres_password")}
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text().split()
    assert not [name for one in services.values() for name in one["environment"] if name.endswith("PASSWORD")]


@pytest.mark.parametrize("name", FILES)
def test_the_server_may_write_to_its_volume_only(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    service = _services(name)["pacs-server"]
    assert service["read_only"] is True
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    monkeypatch.chdir(tmp_path)  # stands for the volume
    config = _settings(name, tmp_path / "secrets")
    written = [config.storage.directory, config.database.path, config.audit.directory, config.user_identity.users_path]
    assert all(path.is_relative_to(tmp_path) for path in written)
    assert config.logging.file is None


def test_what_the_database_keeps_is_in_a_volume() -> None:
    compose = _compose(POSTGRES)
    [volume] = compose["services"]["database"]["volumes"]
    source, target = volume.split(":")
    assert (source in compose["volumes"], target) == (True, "/var/lib/postgresql/data")
