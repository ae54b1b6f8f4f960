"""Grafana's settings and provisioning as the role writes them, held against what Grafana reads."""

import configparser
import json
import re

import pytest
import yaml
from jsonschema import Draft202012Validator
from test_templates import renderings

from tests.deployed import ROOT
from tests.grafana import DASHBOARDS, load, panels

# What Grafana's provisioning reads, as far as the role uses it; a key that it does not know would be ignored in silence.
SECRET = {"type": "string", "pattern": r"^\$__file\{/\S+\}$"}
DATA_SOURCES = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "datasources"],
    "properties": {
        "apiVersion": {"const": 1},
        "prune": {"type": "boolean"},
        "datasources": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "uid", "type", "access", "url", "editable", "jsonData", "secureJsonData"],
                "properties": {
                    "name": {"type": "string"},
                    "uid": {"type": "string", "pattern": "^[a-z0-9-]{1,40}$"},
                    "type": {"enum": ["prometheus", "elasticsearch", "grafana-postgresql-datasource", "alertmanager"]},
                    "access": {"const": "proxy"},
                    "url": {"type": "string"},
                    "user": {"type": "string"},
                    "isDefault": {"type": "boolean"},
                    "editable": {"const": False},
                    "basicAuth": {"const": True},
                    "basicAuthUser": {"type": "string"},
                    "jsonData": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "httpMethod": {"enum": ["GET", "POST"]},
                            "prometheusType": {"enum": ["Prometheus", "Mimir", "Thanos", "Cortex"]},
                            "timeInterval": {"type": "string", "pattern": r"^\d+[smh]$"},
                            "tlsAuthWithCACert": {"const": True},
                            "index": {"type": "string"},
                            "timeField": {"type": "string"},
                            "logMessageField": {"type": "string"},
                            "logLevelField": {"type": "string"},
                            "dataLinks": {"type": "array"},
                            "database": {"type": "string"},
                            "sslmode": {"const": "verify-full"},
                            "tlsConfigurationMethod": {"const": "file-path"},
                            "sslRootCertFile": {"type": "string", "pattern": "^/"},
                            "postgresVersion": {"type": "integer"},
                            "maxOpenConns": {"type": "integer"},
                            "maxIdleConns": {"type": "integer"},
                            "connMaxLifetime": {"type": "integer"},
                            "implementation": {"const": "prometheus"},
                            "handleGrafanaManagedAlerts": {"type": "boolean"},
                        },
                    },
                    "secureJsonData": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"basicAuthPassword": SECRET, "tlsCACert": SECRET, "password": SECRET},
                    },
                },
                # Every one of them is verified and logs in.
                "anyOf": [
                    {
                        "properties": {
                            "url": {"pattern": "^https://"},
                            "jsonData": {"required": ["tlsAuthWithCACert"]},
                            "secureJsonData": {"required": ["tlsCACert", "basicAuthPassword"]},
                        }
                    },
                    {
                        "properties": {
                            "type": {"const": "grafana-postgresql-datasource"},
                            "jsonData": {"required": ["sslmode", "sslRootCertFile"]},
                            "secureJsonData": {"required": ["password"]},
                        }
                    },
                ],
            },
        },
    },
}
PROVIDERS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "providers"],
    "properties": {
        "apiVersion": {"const": 1},
        "providers": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "folder", "type", "options"],
                "properties": {
                    "name": {"type": "string"},
                    "folder": {"type": "string"},
                    "type": {"const": "file"},
                    "allowUiUpdates": {"const": False},
                    "options": {
                        "type": "object",
                        "required": ["path"],
                        "properties": {"path": {"pattern": "^/etc/grafana/"}},
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """What the role's templates make on the lab's inventory, by name."""
    directory = tmp_path_factory.mktemp("inventory")
    names = ("grafana.ini", "datasources.yml", "dashboards.yml")
    return {name: renderings(f"grafana/templates/{name}.j2", directory)[0] for name in names} | {
        "runbooks": renderings("grafana/templates/runbook.json.j2", directory)
    }


@pytest.mark.parametrize(("name", "schema"), [("datasources.yml", DATA_SOURCES), ("dashboards.yml", PROVIDERS)])
def test_provisioning_says_what_grafana_reads(rendered, name, schema):
    errors = [error.message for error in Draft202012Validator(schema).iter_errors(yaml.safe_load(rendered[name]))]
    assert not errors


def test_panels_ask_provisioned_data_sources_of_their_type(rendered):
    provisioned = {each["uid"]: each["type"] for each in yaml.safe_load(rendered["datasources.yml"])["datasources"]}
    asked = {
        (panel["datasource"]["uid"], panel["datasource"]["type"]) for path in DASHBOARDS for panel in panels(load(path))
    }
    assert asked <= set(provisioned.items())


def test_a_dollar_that_is_not_grafanas_is_escaped(rendered):
    """Provisioning replaces $NAME by the environment's variable, an empty one when there is none."""
    values = re.sub(r"\$__file\{[^}]*\}", "", rendered["datasources.yml"])
    assert not re.search(r"(?<!\$)\$(?!\$)\w", values.replace("$$", ""))


def test_the_settings_are_closed(rendered):
    settings = configparser.RawConfigParser()
    settings.read_string(rendered["grafana.ini"].split("\n", 1)[1])
    assert settings["server"]["protocol"] == "https"
    assert settings["auth.anonymous"]["enabled"] == "false"
    assert settings["users"]["allow_sign_up"] == "false"
    assert settings["security"]["cookie_secure"] == "true"
    for section, name in (
        ("security", "admin_password"),
        ("security", "secret_key"),
        ("metrics", "basic_auth_password"),
    ):
        assert re.fullmatch(r"\$__file\{/etc/grafana/secrets/\w+\}", settings[section][name])


def test_no_secret_is_in_the_settings(rendered):
    assert not re.search(r"made-up-", "".join(text for name, text in rendered.items() if name != "runbooks"))


def test_every_runbook_is_a_dashboard(rendered):
    made = [json.loads(text) for text in rendered["runbooks"]]
    names = {path.stem for path in (ROOT / "docs/runbooks").glob("[A-Z]*.md")}
    assert {each["uid"] for each in made} == {f"runbook-{name}" for name in names}
    assert all(len(each["uid"]) <= 40 and each["panels"][1]["options"]["content"] for each in made)
