"""The composition with secrets: each is a file, is given to who needs it, and none stands in a configuration."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gateway.config import load_with_files
from tests.deploy.test_compose import FILE, resolve
from tests.docs.pages import DOCS, blocks
from tests.helm.test_secrets import SECRETS, placed
from tests.support.certificates import Certificates
from tests.support.tools import REPOSITORY, need

FOLDER = REPOSITORY / "deploy/compose/secrets"
OVERRIDE = FOLDER / "compose.yaml"
CONFIG = FOLDER / "kakitome.yaml"
MOUNTED = "/run/secrets/"


@cache
def composition() -> dict[str, Any]:
    return resolve(FILE, OVERRIDE)


def given(service: str) -> set[str]:
    return {secret["target"].removeprefix(MOUNTED) for secret in composition()["services"][service]["secrets"]}


def test_every_kind_of_secret_is_there_and_by_reference() -> None:
    values = yaml.safe_load(CONFIG.read_text())
    found = set()
    for path, at in placed(values):
        if path in SECRETS:
            found.add(path)
            value: Any = values
            for step in at:
                value = value[step]
            assert value.startswith(f"file:{MOUNTED}"), at
    assert found == SECRETS


def test_what_the_configurations_name_is_given_and_nothing_else() -> None:
    for service, file in (("gateway", CONFIG), ("prometheus", FOLDER / "prometheus.yml")):
        assert set(re.findall(rf"{MOUNTED}([a-z.-]+)", file.read_text())) == given(service)
    assert {Path(secret["file"]).parent for secret in composition()["secrets"].values()} == {REPOSITORY / "secrets"}
    assert given("gateway") == set(composition()["secrets"])
    assert "/secrets/" in (REPOSITORY / ".gitignore").read_text().splitlines()


def test_the_gateway_and_prometheus_are_led_to_these_files() -> None:
    gateway, prometheus = (composition()["services"][name] for name in ("gateway", "prometheus"))
    sources = {mount["target"]: mount["source"] for mount in gateway["volumes"] if "source" in mount}
    assert sources["/etc/kakitome"] == str(FOLDER)
    assert "--config.file=/etc/prometheus-with-token/prometheus.yml" in prometheus["command"]
    before = resolve(FILE)["services"]["prometheus"]["command"]
    assert set(before) - set(prometheus["command"]) == {"--config.file=/etc/prometheus/prometheus.yml"}


def test_the_gateway_takes_them_as_the_page_makes_them(tmp_path: Path) -> None:
    """All but the last line of the page's block, which needs an engine, with a certificate that is made here."""
    [block] = [block for block in blocks(DOCS / "deployment-compose.md", "sh") if "openssl rand" in block.text]
    *lines, up = block.text.strip().splitlines()
    assert str(OVERRIDE.relative_to(REPOSITORY)) in up
    made = tmp_path / "letsencrypt"
    made.mkdir()
    pair = Certificates.issue(made)
    script = "\n".join(lines).replace("/etc/letsencrypt/live/chat.example.com/fullchain.pem", str(pair.certificate))
    script = script.replace("/etc/letsencrypt/live/chat.example.com/privkey.pem", str(pair.key))
    subprocess.run(["sh", "-eu", "-c", script], cwd=tmp_path, check=True)
    secrets = tmp_path / "secrets"
    assert {file.name for file in secrets.iterdir()} == set(composition()["secrets"])
    path = tmp_path / "kakitome.yaml"
    path.write_text(CONFIG.read_text().replace(MOUNTED, f"{secrets}/"))
    admin = load_with_files(path).config.admin
    assert admin is not None
    assert admin.token is not None
    assert admin.token.get_secret_value() == (secrets / "scraper-token").read_text().strip()


def test_promtool_accepts_the_configuration_with_a_token() -> None:
    promtool = need("promtool", "apt-get install prometheus")
    command = [promtool, "check", "config", "--syntax-only", str(FOLDER / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
