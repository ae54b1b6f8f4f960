"""Action plugin: generate the secrets that an environment's vault lacks."""

from __future__ import annotations

import json
import os
import secrets
import string
import tempfile
from pathlib import Path

import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.vault import VaultLib
from ansible.plugins.action import ActionBase
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ALPHANUMERIC = string.ascii_letters + string.digits


def generate(name: str, kind: str, length: int) -> dict[str, str]:
    """Return the variables of one secret: {name: value}, for ssh_key also {name_public: value}.

    Raises ValueError on an unknown kind.
    """
    if kind == "password":
        return {name: "".join(secrets.choice(ALPHANUMERIC) for _ in range(length))}
    if kind == "hex":
        return {name: secrets.token_hex(length // 2)}
    if kind == "fernet":
        return {name: Fernet.generate_key().decode()}
    if kind == "ssh_key":
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return {name: private.decode(), f"{name}_public": public.decode()}
    raise ValueError(f"secret {name}: kind '{kind}' is not one of password, hex, fernet, ssh_key")


class ActionModule(ActionBase):
    """Arguments: path (the vault file), secrets ({name: {kind, length}}). Existing values are never touched."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        path = Path(self._task.args["path"])
        wanted = self._task.args["secrets"]
        present = (self._loader.load_from_file(str(path), cache="none") if path.exists() else None) or {}
        made: dict[str, str] = {}
        for name, spec in sorted(wanted.items()):
            if name not in present:
                try:
                    made |= generate(name, spec["kind"], int(spec.get("length", 32)))
                except ValueError as error:
                    raise AnsibleActionFail(str(error)) from error
        result.update(changed=bool(made), generated=sorted(made))
        if made and not self._task.check_mode:
            self._write(path, dict(present) | made)
        return result

    def _write(self, path: Path, values: dict[str, str]) -> None:
        plain = json.loads(json.dumps(values))  # loses Ansible's tagged strings, which YAML cannot represent
        text = yaml.safe_dump(plain, explicit_start=True, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=".vault", delete=False) as file:
            file.write(VaultLib(self._loader._vault.secrets).encrypt(text))
        os.replace(file.name, path)
