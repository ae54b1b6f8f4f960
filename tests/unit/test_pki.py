"""The CA is made once: what is missing or cannot be read is no reason for another one, which no host would trust."""

import pytest


@pytest.fixture
def keep(play, tmp_path):
    """Runs the controller's part of the role in tmp_path; returns (exit status, what it said)."""

    def run(passphrase: str = "a made-up passphrase") -> tuple[int, str]:
        values = {
            "pki_ca_passphrase": passphrase,
            "pki_controller_dir": f"{tmp_path}/pki",
            "platform_environment": "test",
        }
        done = play([{"ansible.builtin.include_role": {"name": "pki", "tasks_from": "authority"}}], values)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return run


def test_the_authority_stays_and_is_never_replaced_silently(keep, tmp_path):
    certificate, key = tmp_path / "pki/ca.crt", tmp_path / "pki/ca.key"
    assert keep()[0] == 0
    made = certificate.read_bytes(), key.read_bytes()

    status, said = keep()
    assert (status, "changed=0" in said) == (0, True), said

    status, said = keep("another passphrase")
    assert status and "passphrase" in said, said
    assert "a made-up passphrase" not in said and "another passphrase" not in said
    assert (certificate.read_bytes(), key.read_bytes()) == made

    key.unlink()
    status, said = keep()
    assert status and "bring it from the controller" in said, said
    assert (certificate.read_bytes(), key.exists()) == (made[0], False)
