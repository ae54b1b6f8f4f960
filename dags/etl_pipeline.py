"""
### Flights from New York

Reads flights (files over SFTP and PostgreSQL), weather (REST), planes (MariaDB), airlines and airports (files) of one interval and publishes
`dwh.fact_flight` by month, the dimensions and the delay aggregates. The declaration is `jobs/pipelines/flights.yml`.

| group | what happens | where to look |
|---|---|---|
| extract | NiFi puts each dataset to `s3://raw` and seals it with a manifest | NiFi, `etl.run_source` |
| transform | Spark cleans, joins, adds up; rejected rows go to `s3://quarantine` | history server, `etl.run_reject` |
| load | COPY into `staging` | `etl.run_stage` |
| publish | audits, then one transaction swaps the partitions in | `etl.audit_result`, `etl.v_published` |

**Backfill**: trigger with `from` and `to`, any length (a year is one run). **Retry**: a sealed dataset is not read
again; a transform writes under a new attempt. **A failed audit publishes nothing**: the old data stay as they are.
The whole run uses the release it began with.
"""

import sys
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])

from airflow.sdk import CronDataIntervalTimetable  # noqa: E402
from common.pipeline import pipeline_dag  # noqa: E402

ZONE = "America/New_York"

# The data end with 2013: the schedule is there for an example, and makes no run of its own any more.
DAG = pipeline_dag(
    "flights",
    dag_id="etl_pipeline",
    title="Flights from New York",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable("0 0 1 * *", timezone=ZONE),
    start_date=datetime(2013, 1, 1, tzinfo=ZoneInfo(ZONE)),
    end_date=datetime(2013, 12, 31, tzinfo=ZoneInfo(ZONE)),
)
