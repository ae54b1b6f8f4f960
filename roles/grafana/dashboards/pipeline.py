"""Pipeline: one run from its sources to what it published, and the runs before it."""

from roles.grafana.dashboards.panels import (
    GOOD_IS_ZERO,
    RUN_LINK,
    RUN_STATES,
    WAREHOUSE,
    board,
    choice,
    colored,
    curve,
    graded,
    lines,
    log_counts,
    log_lines,
    metric,
    number,
    ranking,
    rows,
    sql,
    unit,
    word,
)

RUN = "run_id = ${run:sqlstring}"
PIPELINE = "pipeline = ${pipeline:sqlstring}"
PASSED = {"passed": "green", "failed": "red"}


def build():
    """The dashboard."""
    made = board(
        "etl-pipeline",
        "Pipeline",
        "A run from source to publication: what it read, rejected, loaded, audited, published and said.",
        since="now-7d",
    )
    made = made.with_variable(
        choice(
            "pipeline",
            "Pipeline",
            WAREHOUSE,
            "select pipeline from etl.run group by pipeline order by max(started_at) desc",
        )
    )
    made = made.with_variable(
        choice(
            "run", "Run", WAREHOUSE, f"select run_id from etl.run where {PIPELINE} order by started_at desc limit 200"
        )
    )

    for panel in (
        word(
            "State",
            "How the run ended. Readers see its rows only when it says published.",
            sql(f"select state from etl.run where {RUN}"),
            colors=RUN_STATES,
        ),
        word(
            "Interval",
            "What it was asked for, [from, to) in the sources' local time.",
            sql(
                f"select to_char(interval_from, 'YYYY-MM-DD HH24:MI') || ' – ' || to_char(interval_to, 'YYYY-MM-DD HH24:MI') from etl.run where {RUN}"
            ),
        ),
        number(
            "Took",
            "From its start until it ended, or until now.",
            sql(
                f"select extract(epoch from coalesce(finished_at, now()) - started_at) as seconds from etl.run where {RUN}"
            ),
            unit="s",
        ),
        number(
            "Rows extracted",
            "What its sealed manifests count; of files, the source.",
            sql(f"select coalesce(sum(coalesce(row_count, source_rows)), 0) as rows from etl.run_source where {RUN}"),
        ),
        number(
            "Rows rejected",
            "Rows in quarantine, with rule and reason.",
            sql(f"select coalesce(sum(row_count), 0) as rows from etl.run_reject where {RUN} and rule <> 'superseded'"),
            steps=[(None, "green"), (1, "orange")],
        ),
        number(
            "Audits failed",
            "A single one, and nothing of the run is published.",
            sql(f"select count(*) filter (where not passed) as failed from etl.audit_result where {RUN}"),
            steps=GOOD_IS_ZERO,
        ),
        rows(
            "Sources",
            "What was extracted: one sealed manifest a dataset.",
            sql(
                f"""
                select dataset, source, format, files, coalesce(row_count, source_rows) as "rows", byte_count as bytes, extracted_at, attempt, flow_version
                from etl.run_source where {RUN} order by extracted_at, dataset
                """
            ),
            {"bytes": unit("bytes"), "extracted_at": unit("dateTimeAsLocal")},
            width=24,
        ),
        rows(
            "Stages",
            "Rows into and out of every stage. A dataset that grows or shrinks where it should not is seen here.",
            sql(
                f"""
                select s.stage, s.dataset, s.rows_in, s.rows_out,
                coalesce((select sum(j.row_count) from etl.run_reject as j where (j.run_id, j.stage, j.dataset) = (s.run_id, s.stage, s.dataset) and j.rule <> 'superseded'), 0) as rejected,
                s.seconds, s.attempt, s.recorded_at, s.prefix
                from etl.run_stage as s where s.{RUN} order by s.recorded_at, s.dataset
                """
            ),
            {
                "rejected": graded([(None, "green"), (1, "orange")]),
                "seconds": unit("s"),
                "recorded_at": unit("dateTimeAsLocal"),
            },
            width=16,
            height=10,
        ),
        ranking(
            "Where the time went",
            "Seconds of every stage, as the stage measured them.",
            sql(
                f"select stage, max(seconds) as seconds from etl.run_stage where {RUN} and seconds is not null group by stage order by seconds desc"
            ),
            unit="s",
            height=10,
        ),
        rows(
            "Balance",
            "Every row that a source counted is published, in quarantine or superseded by a later one.",
            sql(
                f"""
                select dataset, source, extracted, published, quarantined, superseded, released, difference,
                case when balanced then 'balanced' when balanced is null then 'not known' else 'off' end as balance
                from etl.v_balance where {RUN} order by dataset, source
                """
            ),
            {
                "balance": colored({"balanced": "green", "not known": "text", "off": "red"}),
                "difference": graded([(None, "red"), (0, "green"), (1, "red")]),
            },
            width=24,
        ),
        rows(
            "Audits",
            "What was checked in the staged rows before anybody saw them.",
            sql(
                f"""
                select dataset, audit, case when passed then 'passed' else 'failed' end as result, expected, found, checked_at
                from etl.audit_result where {RUN} order by passed, dataset, audit
                """
            ),
            {"result": colored(PASSED), "checked_at": unit("dateTimeAsLocal")},
            width=12,
            height=10,
        ),
        rows(
            "Partitions",
            "What it published, where its versions are now, and what they replaced.",
            sql(
                f"""
                select table_name, partition_name, version, lower_bound, upper_bound, row_count as "rows",
                case when current then 'current' when dropped_at is not null then 'dropped' else 'history' end as state, published_at
                from etl.partition_version where {RUN} order by table_name, lower_bound
                """
            ),
            {
                "state": colored({"current": "green", "history": "text", "dropped": "text"}),
                "published_at": unit("dateTimeAsLocal"),
            },
            width=12,
            height=10,
        ),
        curve(
            "What it said",
            "Log lines of the run by task.",
            log_counts('run_id:"$run"', "task"),
            bars=True,
            stacked=True,
            width=24,
        ),
        lines(
            "Its log",
            "Every line that a task of the run wrote, whatever host it ran on.",
            log_lines('run_id:"$run"', 1000),
        ),
        rows(
            "Runs",
            "The pipeline's runs, the newest first. The run leads to its details.",
            sql(
                f"""
                select started_at, run_id, pipeline, state, interval_from, interval_to, extract(epoch from duration) as seconds, rows_extracted, rows_rejected,
                audits_failed, partitions_published, release, error
                from etl.v_run where {PIPELINE} and $__timeFilter(started_at) order by started_at desc limit 100
                """
            ),
            {
                "run_id": RUN_LINK,
                "state": colored(RUN_STATES),
                "seconds": unit("s"),
                "started_at": unit("dateTimeAsLocal"),
                "interval_from": unit("string"),
                "interval_to": unit("string"),
                "audits_failed": graded(GOOD_IS_ZERO),
            },
            height=10,
        ),
        curve(
            "How long runs take",
            "Seconds from start to end, by the time they started; an alert fires above the objective.",
            sql(
                f"""
                select started_at as time, extract(epoch from coalesce(finished_at, now()) - started_at) as seconds
                from etl.run where {PIPELINE} and $__timeFilter(started_at) order by 1
                """,
                series=True,
            ),
            unit="s",
        ),
        curve(
            "Rows extracted and rejected",
            "By the time that runs started.",
            sql(
                f"""
                select started_at as time, coalesce(rows_extracted, 0) as extracted, coalesce(rows_rejected, 0) as rejected
                from etl.v_run where {PIPELINE} and $__timeFilter(started_at) order by 1
                """,
                series=True,
            ),
        ),
        curve(
            "Freshness",
            "Time since the pipeline published anything that still stands; an alert fires above the objective.",
            metric('etl_publication_age_seconds{pipeline="$pipeline"}', "{{pipeline}}"),
            metric("slo:published_age_seconds", "objective"),
            unit="s",
        ),
    ):
        made = made.with_panel(panel)
    return made
