"""Filters of the observing roles: password hashes and tokens that stay the same from run to run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import bcrypt

DOCUMENTATION = """
name: observe
short_description: Password hashes and tokens of the observing roles
"""

BCRYPT_ALPHABET = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
STANDARD_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
NEVER = 4102444800  # 2100-01-01: a token lives as long as the secret that signs it


def bcrypt_hash(password: str, place: str, prefix: str = "2b") -> str:
    """Return the bcrypt hash of a password, cost 10, salted with the place it is kept at (a host and file, say).

    The salt is no secret: it must only differ from place to place, and stay, so that a second run changes nothing.
    `prefix` is 2b or, for Java, 2a: the same algorithm.
    """
    digest = hashlib.sha256(place.encode()).digest()[:16]
    salt = base64.b64encode(digest).translate(bytes.maketrans(STANDARD_ALPHABET, BCRYPT_ALPHABET)).rstrip(b"=")
    return bcrypt.hashpw(password.encode(), f"${prefix}$10$".encode() + salt).decode()


def minio_token(secret_key: str, access_key: str) -> str:
    """Return the bearer token with which Prometheus reads MinIO's metrics as the user `access_key`."""
    claims = {"exp": NEVER, "iss": "prometheus", "sub": access_key}
    parts = [json.dumps(part, separators=(",", ":")).encode() for part in ({"alg": "HS512", "typ": "JWT"}, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.new(secret_key.encode(), signed, hashlib.sha512).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


class FilterModule:
    """The filters."""

    def filters(self):
        """Return the filters by name."""
        return {"bcrypt_hash": bcrypt_hash, "minio_token": minio_token}
