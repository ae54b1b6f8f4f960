"""Documentation of the options in module_utils/nifi.CONNECTION."""


class ModuleDocFragment:
    """Connection of the nifi_* modules."""

    DOCUMENTATION = r"""
options:
  url: {description: URL of NiFi's API., type: str, required: true}
  ca_file: {description: CA to check the server by., type: path, required: true}
  client_cert: {description: The administrator's certificate (PEM)., type: path, required: true}
  client_key: {description: Its key (PEM)., type: path, required: true}
requirements: [nipyapi >= 1.0]
"""
