"""
### Orders and line items

Reads orders and line items (PostgreSQL) and customers (a file over SFTP), and publishes `dwh.fact_order` and
`dwh.fact_line_item` by month of order, customers and the revenue by day. The declaration is `jobs/pipelines/orders.yml`.

The interval is one of **changes**: a run over `[from, to)` takes each month that has an order new or changed then, as a whole, and
touches no other. An order of long ago that changes today is in today's run. Deleted orders stay at the source with a mark; the run
takes them out. `from` far back and `to` now publishes everything once more.

The tasks are those of every pipeline: see `etl_pipeline`. One run at a time: the next one waits in Airflow's queue.
"""

import sys
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])

from common.pipeline import pipeline_dag  # noqa: E402

DAG = pipeline_dag("orders", dag_id="orders", title="Orders and line items", doc_md=__doc__)
