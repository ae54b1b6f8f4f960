"""Import every DAG file of the directory in argv[1] and fail with the errors."""

import sys
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag

folder = Path(sys.argv[1])
bag = DagBag(folder, bundle_path=folder, bundle_name="candidate")
for file, error in bag.import_errors.items():
    print(f"{file}:\n{error}", file=sys.stderr)
if not bag.dags:
    print(f"{folder} holds no DAG", file=sys.stderr)
print(*sorted(bag.dags))
sys.exit(bool(bag.import_errors) or not bag.dags)
