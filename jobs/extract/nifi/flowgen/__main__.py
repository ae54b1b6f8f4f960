"""Write the committed flow definitions, one for each declared pipeline."""

import json
from pathlib import Path

from jobs import declaration
from jobs.extract.nifi.flowgen.extract import build

FLOWS = Path(__file__).resolve().parents[1] / "flows"


def render(pipeline: declaration.Declaration) -> str:
    """The text of a pipeline's committed definition."""
    return json.dumps(build(pipeline), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FLOWS.mkdir(exist_ok=True)
    for declared in declaration.load_all():
        path = FLOWS / f"{declared.pipeline}.json"
        text = render(declared)
        changed = not path.exists() or path.read_text() != text
        path.write_text(text)
        print(f"{path}: {'written' if changed else 'unchanged'}")
