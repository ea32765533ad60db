"""What is shipped for deployment, read as the programs would read it: there is no daemon here."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat_app import settings
from tests.house import tree

DEPLOY = tree.ROOT / "deploy"
COMPOSE = sorted(DEPLOY.glob("compose*.yaml"))
OURS = "ml-chat-billing"
# Made by the operator, as the file's head says.
THEIRS = {"./tls", "./postgres-password.txt", "./metrics-key.txt"}


def docker_instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", tree.read("deploy/Dockerfile"), flags=re.M)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def all_of(name: str) -> list[str]:
    return [words for one, words in docker_instructions() if one == name]


def test_the_image_is_built_in_stages_and_runs_as_nobody() -> None:
    stages = all_of("FROM")
    assert [line.split(" AS ")[1] for line in stages] == [
        "build", "base", "device-cpu", "device-cuda", "final"
    ]  # fmt: skip
    assert {line.split(" AS ")[0] for line in stages} == {
        "${BASE}", "base", "device-${DEVICE}"
    }  # fmt: skip
    assert "BASE=python:3.11-slim-trixie" in all_of("ARG"), "a base with a tag, not the latest"
    user = all_of("USER")
    assert len(user) == 1
    assert int(user[0].split(":")[0]) > 1000
    names = [name for name, _ in docker_instructions()]
    assert names.index("USER") > len(names) - 1 - names[::-1].index("RUN"), "root runs nothing last"


def test_the_image_is_small_and_ends_in_order() -> None:
    assert not all_of("ADD")
    for command in all_of("RUN"):
        if "apt-get install" in command:
            assert "--no-install-recommends" in command
            assert "rm -rf /var/lib/apt/lists/*" in command
            assert "apt-get update" in command
        assert "sudo" not in command
        assert "chmod 777" not in command
    [entry] = all_of("ENTRYPOINT")
    assert json.loads(entry) == ["python", "launch.py"], "without a shell, or signals are lost"
    [health] = all_of("HEALTHCHECK")
    command = json.loads(health.split("CMD ")[1])
    compile(command[2], "healthcheck", "exec")
    assert "/readyz" in command[2]
    assert all_of("STOPSIGNAL") == ["SIGTERM"]


def test_the_image_knows_the_programs_settings() -> None:
    named = set(re.findall(r"CHAT_APP_\w+", tree.read("deploy/Dockerfile")))
    assert named <= settings.known_names()
    assert {"CHAT_APP_DATA_DIR", "CHAT_APP_MODELS_DIR", "CHAT_APP_SERVER__HOST"} <= named
    [volumes] = all_of("VOLUME")
    for place in ("CHAT_APP_DATA_DIR=/data", "CHAT_APP_MODELS_DIR=/models"):
        assert place in tree.read("deploy/Dockerfile")
        assert place.split("=")[1] in json.loads(volumes)


def test_nothing_private_gets_into_an_image() -> None:
    """The list of what may is short; data, weights, keys and history are not on it."""
    lines = [line for line in tree.read(".dockerignore").splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    for name in allowed:
        assert (tree.ROOT / name).exists(), name
    assert not {"data", "models_cache", "tests", ".git", "deploy"} & set(allowed)
    for line in all_of("COPY"):
        for source in line.split()[:-1]:
            if not source.startswith(("--from", "/", ".")):
                assert source in allowed, source


@pytest.fixture(params=COMPOSE, ids=lambda path: path.name)
def compose(request: pytest.FixtureRequest) -> dict[str, Any]:
    path: Path = request.param
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    content = {name: part for name, part in content.items() if not name.startswith("x-")}
    if path.name in {"compose.monitoring.yaml", "compose.three.yaml"}:  # laid over the full set
        full = yaml.safe_load((DEPLOY / "compose.full.yaml").read_text(encoding="utf-8"))
        for part in ("services", "volumes", "secrets"):
            content[part] = {**full[part], **content.get(part, {})}
        content["networks"] = full["networks"]
    return content


def test_compose_names_what_exists(compose: dict[str, Any]) -> None:
    assert set(compose) <= {"name", "services", "volumes", "networks", "secrets"}
    for name, service in compose["services"].items():
        image = service["image"]
        assert image == OURS or re.search(r":[\w.-]*\d", image), f"{image} has no version"
        assert "build" not in service or image == OURS
        if "build" in service:
            build = service["build"]
            context = (DEPLOY / build["context"]).resolve()
            assert context == tree.ROOT
            assert (context / build["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source, target, *rest = volume.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert rest == ["ro"], volume
                assert source in THEIRS or (DEPLOY / source).exists(), source
            else:
                assert source in compose["volumes"], source
        for network in service.get("networks", []):
            assert network in compose["networks"], name
        for secret in service.get("secrets", []):
            assert secret in compose["secrets"], name
        waits = service.get("depends_on", {})
        for other, how in waits.items() if isinstance(waits, dict) else []:
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in compose["services"][other]
        for variable in service.get("environment", {}):
            if variable.startswith(settings.PREFIX):
                assert variable in settings.known_names()
    for secret in compose.get("secrets", {}).values():
        assert secret["file"] in THEIRS


def test_compose_is_closed(compose: dict[str, Any]) -> None:
    """No service has more rights than it needs, and only nginx is on the internet."""
    for name, service in compose["services"].items():
        assert "privileged" not in service
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["restart"] == "unless-stopped"
        for port in service.get("ports", []):
            assert name == "nginx" or port.startswith("127.0.0.1:"), f"{name}: {port}"
    apps = [one for one in compose["services"].values() if one["image"] == OURS]
    assert apps
    for app in apps:
        assert app["read_only"] is True
        assert app["cap_drop"] == ["ALL"]
        assert int(app["stop_grace_period"].rstrip("s")) > settings.Server().drain_seconds + 10


def test_three_processes_are_alike_and_nginx_knows_them() -> None:
    """All share one data directory, one database and one Redis; nginx is as before them."""
    services = yaml.safe_load(tree.read("deploy/compose.three.yaml"))["services"]
    full = yaml.safe_load(tree.read("deploy/compose.full.yaml"))["services"]
    apps = {name: one for name, one in services.items() if one["image"] == OURS}
    assert list(apps) == services["nginx"]["depends_on"] == ["app", "app2", "app3"]
    for one in apps.values():
        assert one["environment"] == services["app"]["environment"]
        assert one["volumes"] == full["app"]["volumes"]
        assert set(full["app"]["environment"]) < set(one["environment"])
    assert services["nginx"] == full["nginx"] | {
        "depends_on": list(apps),
        "volumes": ["./nginx/three.conf:/etc/nginx/conf.d/default.conf:ro",
                    *full["nginx"]["volumes"][1:]],
    }  # fmt: skip
    line = "    server app:7860 max_fails=2 fail_timeout=5s;\n"
    one, three = tree.read("deploy/nginx/chat.conf"), tree.read("deploy/nginx/three.conf")
    several = "".join(line.replace("app:", f"{name}:") for name in apps)
    assert three.splitlines()[1:] == one.replace(line, several).splitlines()[1:]


def test_prometheus_asks_where_the_program_answers() -> None:
    content = yaml.safe_load(tree.read("deploy/prometheus/prometheus.yml"))
    [job] = content["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["dns_sd_configs"][0]["port"] == settings.Server().port
    assert job["dns_sd_configs"][0]["names"] == ["app"]


def test_the_unit_is_right_and_patient(tmp_path: Path) -> None:
    text = tree.read("deploy/systemd/ml-chat-billing.service")
    assert set(re.findall(r"CHAT_APP_\w+", text)) <= settings.known_names()
    patience = re.search(r"TimeoutStopSec=(\d+)", text)
    assert patience is not None
    assert int(patience[1]) > settings.Server().drain_seconds + 10
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    # The program is not installed where the unit looks for it; everything else is checked.
    unit = tmp_path / "ml-chat-billing.service"
    unit.write_text(text.replace("/srv/ml-chat-billing/.venv/bin/python", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "ml-chat-billing" in line]
    assert complaints == []


def test_nginx_lets_the_largest_body_through() -> None:
    """Bodies and timeouts; tests/deploy/test_nginx.py runs the real thing."""
    text = re.sub(r"#.*", "", tree.read("deploy/nginx/chat.conf"))
    largest = re.search(r"client_max_body_size (\d+)m;", text)
    assert largest is not None
    server = settings.Server()
    most = max(server.max_body_kib, server.max_import_kib, server.max_other_body_kib)
    assert int(largest[1]) * 1024 > most
    assert "proxy_buffering off;" in text
    patience = re.search(r"proxy_read_timeout (\d{3})s;", text)
    assert patience is not None
    assert int(patience[1]) > settings.Llm().answer_seconds
