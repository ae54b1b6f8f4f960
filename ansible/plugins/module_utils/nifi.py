"""What the nifi_* modules share: the API over nipyapi, a readable difference of flows, and marks of secret values.

The PyPI package `nipyapi` is imported late, so that a missing package is reported by the module and not as a traceback.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time

from ansible.module_utils.basic import missing_required_lib

CONNECTION = {
    "url": {"type": "str", "required": True},
    "ca_file": {"type": "path", "required": True},
    "client_cert": {"type": "path", "required": True},
    "client_key": {"type": "path", "required": True},
}

# Where a component is drawn or how an instance calls itself says nothing about what the flow does.
UNCOMPARED = {
    *("identifier", "instanceIdentifier", "groupIdentifier", "propertyDescriptors", "controllerServiceApis"),
    *("position", "style", "bends", "labelIndex", "zIndex", "scheduledState", "componentType"),
}


class NifiError(Exception):
    """NiFi's refusal, or a state that was not reached in time; the message is for people."""

    def __init__(self, message, status=0):
        super().__init__(message)
        self.status = status


class Api:
    """NiFi's REST API as dicts, with the identity of a client certificate."""

    def __init__(self, module):
        try:
            import nipyapi
        except ImportError as error:
            module.fail_json(msg=missing_required_lib("nipyapi"), exception=str(error))
        params = module.params
        nipyapi.config.nifi_config.host = params["url"]
        nipyapi.security.set_service_ssl_context(
            "nifi",
            ca_file=params["ca_file"],
            client_cert_file=params["client_cert"],
            client_key_file=params["client_key"],
        )
        self._url = params["url"]
        self._rest = nipyapi.nifi.rest
        self._client = nipyapi.nifi.ApiClient()

    def call(self, method, path, body=None, **query):
        """Return the answer as a dict; raises NifiError with NiFi's own words."""
        try:
            return self._client.call_api(
                path,
                method,
                query_params=query,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                response_type="object",
                auth_settings=[],
                _return_http_data_only=True,
                _request_timeout=60,
            )
        except self._rest.ApiException as error:
            raise NifiError(
                f"{method} {self._url}{path}: {error.status} {error.body or error.reason}", error.status
            ) from error
        except Exception as error:
            raise NifiError(f"{method} {self._url}{path}: {error}") from error

    def get(self, path, **query):
        """Shorthand of call."""
        return self.call("GET", path, **query)

    def request(self, path, body, seconds):
        """Run one of NiFi's asynchronous requests to its end and clean it up."""
        answer = self.call("POST", path, body)["request"]
        where = f"{path}/{answer['requestId']}"
        if path.endswith("/replace-requests"):
            where = f"/process-groups/replace-requests/{answer['requestId']}"
        deadline = time.monotonic() + seconds
        while not answer["complete"] and time.monotonic() < deadline:
            time.sleep(0.3)
            answer = self.get(where)["request"]
        self.call("DELETE", where)
        if not answer["complete"]:
            raise NifiError(f"POST {path} was not done after {seconds} s, it was at: {answer.get('state')}")
        if answer.get("failureReason"):
            raise NifiError(f"POST {path}: {answer['failureReason']}")


def mark(value, salt=None):
    """A salted one-way mark of a secret value: NiFi never shows the value, so the mark is what tells a change."""
    salt = salt or secrets.token_hex(8)
    return f"{salt}:{hashlib.scrypt(value.encode(), salt=salt.encode(), n=2**14, r=8, p=1, dklen=16).hex()}"


def marked(description, value):
    """Whether a parameter's description carries the mark of this value."""
    salt, _, _ = (description or "").partition(":")
    return bool(salt) and hmac.compare_digest(mark(value, salt), description)


def components(contents):
    """The parts of a process group that do something, by readable name.

    Connections and references between components are told by the components' names, since identifiers differ
    between a definition and what NiFi made of it.
    """
    named = [*contents["processors"], *contents["controllerServices"]]
    names = {part["identifier"]: part["name"] for part in named}
    flat = {
        "group": {"comments": contents.get("comments"), "parameterContextName": contents.get("parameterContextName")}
    }
    for kind, parts in (("processor", contents["processors"]), ("service", contents["controllerServices"])):
        for part in parts:
            flat[f"{kind} '{part['name']}'"] = _flat(part, names)
    for part in contents["connections"]:
        ends = [names.get(part[end]["id"], part[end].get("name", "?")) for end in ("source", "destination")]
        relationships = sorted(part["selectedRelationships"])
        flat[f"connection '{ends[0]}' -> '{ends[1]}' ({', '.join(relationships)})"] = _flat(
            {key: value for key, value in part.items() if key not in ("source", "destination", "name")}, names
        )
    return flat


def _flat(part, names):
    flat = {key: value for key, value in part.items() if key not in UNCOMPARED and key != "properties"}
    for key, value in (part.get("properties") or {}).items():
        flat[f"property '{key}'"] = names.get(value, value)
    dynamic = {
        f"property '{key}'" for key, value in (part.get("propertyDescriptors") or {}).items() if value.get("dynamic")
    }
    return {
        key: (sorted(value) if isinstance(value, list) else value, key in dynamic)
        for key, value in flat.items()
        if value is not None
    }


def compare(deployed, wanted):
    """What is to change, as (before, after): {component: {setting: value}}, both empty when nothing is.

    What a definition leaves open (defaults of properties) is not compared; properties of a user's own making that the
    definition does not have are.
    """
    old, new = components(deployed), components(wanted)
    before, after = {}, {}
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in old or name not in new:
            (after if name in new else before)[name] = "present"
            continue
        settings = {key: _value(value) for key, value in new[name].items()}
        present = {key: _value(value) for key, value in old[name].items()}
        extra = {key for key, value in old[name].items() if _dynamic(value) and key not in settings}
        changed = {key for key, value in settings.items() if present.get(key) != value} | extra
        if changed:
            before[name] = {key: present[key] for key in sorted(changed) if key in present}
            after[name] = {key: settings[key] for key in sorted(changed) if key in settings}
    return before, after


def _value(setting):
    return setting[0] if isinstance(setting, tuple) else setting


def _dynamic(setting):
    return isinstance(setting, tuple) and setting[1]


def text(difference):
    """A difference as text for Ansible's diff, one setting a line."""
    lines = []
    for name, settings in difference.items():
        if isinstance(settings, dict):
            lines += [f"{name}: {key} = {json.dumps(value, sort_keys=True)}" for key, value in settings.items()]
        else:
            lines.append(f"{name}: {settings}")
    return "".join(f"{line}\n" for line in lines)
