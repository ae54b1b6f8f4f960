"""Grafana's dashboards as code: a module each, `build()` returns it. `python -m roles.grafana.dashboards` writes the JSON."""

import json
from importlib import import_module
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

NAMES = ("platform", "pipeline", "warehouse", "quality", "releases")
FILES = Path(__file__).resolve().parents[1] / "files/dashboards"


def _without_nulls(value):
    if isinstance(value, dict):
        # The first step of thresholds is null: from minus infinity on.
        return {key: _without_nulls(item) for key, item in value.items() if item is not None or key == "value"}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def generate() -> dict[str, str]:
    """Return every dashboard's file name and JSON text."""
    texts = {}
    for name in NAMES:
        built = import_module(f"{__name__}.{name}").build().build()
        for number, panel in enumerate(built.panels, 1):
            panel.id_val = number
        content = _without_nulls(json.loads(JSONEncoder().encode(built)))
        texts[f"{name}.json"] = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return texts
