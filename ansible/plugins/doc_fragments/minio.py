"""Documentation of the options in module_utils/minio_client.CONNECTION."""


class ModuleDocFragment:
    """Connection of the minio_* modules."""

    DOCUMENTATION = r"""
options:
  endpoint: {description: URL of the S3 API., type: str, required: true}
  region: {description: Region of the server., type: str, default: us-east-1}
  ca_file: {description: CA bundle to check the server by., type: path, default: /etc/ssl/certs/ca-certificates.crt}
  root_user: {description: Administrator., type: str, required: true}
  root_password: {description: The administrator's password., type: str, required: true}
requirements: [minio >= 7.2]
"""
