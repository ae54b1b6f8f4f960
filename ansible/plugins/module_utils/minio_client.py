"""What the minio_* modules share: connection arguments, clients and error codes.

The PyPI package `minio` is imported late, so that a missing package is reported by the module and not as a traceback.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from ansible.module_utils.basic import missing_required_lib

CONNECTION = {
    "endpoint": {"type": "str", "required": True},
    "region": {"type": "str", "default": "us-east-1"},
    "ca_file": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
    "root_user": {"type": "str", "required": True},
    "root_password": {"type": "str", "required": True, "no_log": True},
}


class Connection:
    """Clients for one server, made from a module's CONNECTION parameters; fails the module when `minio` is missing."""

    def __init__(self, module):
        try:
            import minio
            import urllib3
        except ImportError as error:
            module.fail_json(msg=missing_required_lib("minio"), exception=str(error))
        self._minio = minio
        self._params = module.params
        self._host = urlsplit(module.params["endpoint"]).netloc
        self._pool = urllib3.PoolManager(
            cert_reqs="CERT_REQUIRED",
            ca_certs=module.params["ca_file"],
            timeout=urllib3.Timeout(connect=5, read=30),
            retries=urllib3.Retry(total=3, backoff_factor=0.5, status_forcelist=[502, 503, 504]),
        )

    def admin(self):
        """Return a MinioAdmin acting as the root user."""
        from minio.credentials import StaticProvider

        credentials = StaticProvider(self._params["root_user"], self._params["root_password"])
        return self._minio.MinioAdmin(
            endpoint=self._host, credentials=credentials, region=self._params["region"], http_client=self._pool
        )

    def s3(self, access_key=None, secret_key=None):
        """Return an S3 client, as the root user unless an access key and its secret are given."""
        return self._minio.Minio(
            self._host,
            access_key=access_key or self._params["root_user"],
            secret_key=secret_key or self._params["root_password"],
            region=self._params["region"],
            http_client=self._pool,
        )


def error_code(error):
    """Return the server's code of an S3 or admin error (`NoSuchBucket`, `XMinioAdminNoSuchUser`), or ''."""
    code = getattr(error, "code", None)
    if code:
        return code
    try:
        return json.loads(getattr(error, "_body", "")).get("Code", "")
    except ValueError:
        return ""
