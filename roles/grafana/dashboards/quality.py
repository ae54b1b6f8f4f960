"""Data quality: what audits found, what rules rejected, and whether that changes."""

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
    metric,
    number,
    ranking,
    rows,
    sql,
    states,
    unit,
)

CHOSEN = "r.pipeline in (${pipeline:sqlstring})"
SEEN = f"{CHOSEN} and $__timeFilter(r.started_at)"


def build():
    """The dashboard."""
    made = board(
        "etl-quality",
        "Data quality",
        "Audits before publication, rejected rows by rule, and how both change from run to run.",
        since="now-7d",
    )
    made = made.with_variable(
        choice(
            "pipeline", "Pipeline", WAREHOUSE, "select distinct pipeline from etl.run order by pipeline", several=True
        )
    )

    for panel in (
        number(
            "Audits failed, last runs",
            "Of the last run of every pipeline.",
            metric('sum(etl_run_audits_failed{pipeline=~"$pipeline"}) or vector(0)', now=True),
            steps=GOOD_IS_ZERO,
        ),
        number(
            "Out of balance",
            "Sources of published runs whose rows are not all published, quarantined or superseded.",
            sql(
                f"select count(*) filter (where not b.balanced) as sources from etl.v_balance as b inner join etl.run as r on r.run_id = b.run_id where {SEEN} and r.state = 'published'"
            ),
            steps=GOOD_IS_ZERO,
        ),
        number(
            "Audits passed",
            "Share of all audits in the dashboard's time.",
            sql(
                f"select avg(a.passed::int) as passed from etl.audit_result as a inner join etl.run as r on r.run_id = a.run_id where {SEEN}"
            ),
            unit="percentunit",
            steps=[(None, "red"), (0.99, "orange"), (1, "green")],
        ),
        number(
            "Rows rejected, last runs",
            "Of the last run of every pipeline.",
            metric('sum(etl_run_rejected_rows{pipeline=~"$pipeline"}) or vector(0)', now=True),
            steps=[(None, "green"), (1, "orange")],
        ),
        number(
            "Highest share rejected",
            "Of the rows that a last run read; an alert fires above the objective.",
            metric('max(etl_run_rejected_rows{pipeline=~"$pipeline"} / (etl_run_extracted_rows > 0))', now=True),
            unit="percentunit",
            steps=[(None, "green"), (0.005, "orange"), (0.01, "red")],
        ),
        number(
            "Runs that an audit stopped",
            "In the dashboard's time. Nothing of them was published.",
            sql(
                f"""
                select count(distinct r.run_id) as runs from etl.run as r
                inner join etl.audit_result as a on a.run_id = r.run_id and not a.passed where {SEEN}
                """
            ),
            steps=GOOD_IS_ZERO,
        ),
        states(
            "Audits of the last runs",
            "Every audit over time, as the last run at that time had it.",
            metric(
                'min by (pipeline, dataset, audit) (etl_audit_passed{pipeline=~"$pipeline"})',
                "{{pipeline}} {{dataset}} {{audit}}",
            ),
            texts={"1": ("passed", "green"), "0": ("failed", "red")},
            height=14,
        ),
        rows(
            "Audits, the failed first",
            "Of the runs in the dashboard's time: what was expected and what was found.",
            sql(
                f"""
                select a.checked_at, r.pipeline, a.dataset, a.audit, case when a.passed then 'passed' else 'failed' end as result, a.expected, a.found, r.run_id
                from etl.audit_result as a inner join etl.run as r on r.run_id = a.run_id where {SEEN} order by a.passed, a.checked_at desc limit 500
                """
            ),
            {
                "run_id": RUN_LINK,
                "result": colored({"passed": "green", "failed": "red"}),
                "checked_at": unit("dateTimeAsLocal"),
            },
            width=12,
            height=14,
        ),
        rows(
            "Balance",
            "Every row that a source counted is published, in quarantine or superseded by a later one; the difference is what is not accounted for.",
            sql(
                f"""
                select r.started_at, r.run_id, r.pipeline, b.dataset, b.source, b.extracted, b.published, b.quarantined, b.superseded, b.released, b.difference,
                case when b.balanced then 'balanced' when b.balanced is null then 'not known' else 'off' end as balance
                from etl.v_balance as b inner join etl.run as r on r.run_id = b.run_id where {SEEN} order by b.balanced, r.started_at desc, b.dataset limit 200
                """
            ),
            {
                "run_id": RUN_LINK,
                "started_at": unit("dateTimeAsLocal"),
                "balance": colored({"balanced": "green", "not known": "text", "off": "red"}),
                "difference": graded([(None, "red"), (0, "green"), (1, "red")]),
            },
            height=10,
        ),
        curve(
            "Share of rows rejected",
            "By pipeline and the time that its runs started, beside the objective.",
            sql(
                f"""
                select r.started_at as time, r.pipeline as metric, coalesce(r.rows_rejected, 0)::float8 / greatest(r.rows_extracted, 1) as rejected
                from etl.v_run as r where {SEEN} and r.rows_extracted is not null order by 1
                """,
                series=True,
            ),
            unit="percentunit",
            steps=[(None, "green"), (0.01, "red")],
            width=12,
        ),
        curve(
            "Rows of every published table",
            "A step that no run explains is a loss.",
            metric('sum by (table_name) (etl_published_rows{pipeline=~"$pipeline"})', "{{table_name}}"),
            width=12,
        ),
        ranking(
            "Rejected by rule",
            "Rows in quarantine of the runs in the dashboard's time; one bar says 0 where no rule broke.",
            sql(
                f"""
                select coalesce(j.dataset || ' ' || j.rule, 'none') as rule, coalesce(sum(j.row_count), 0) as "rows"
                from (select 1) as always left join (
                select j.* from etl.run_reject as j inner join etl.run as r on r.run_id = j.run_id where {SEEN} and j.rule <> 'superseded'
                ) as j on true group by 1 order by 2 desc limit 20
                """
            ),
            steps=[(None, "green"), (1, "orange")],
            width=12,
        ),
        rows(
            "Runs and what they lost",
            "Rows read, rejected and published by run. Where rejected rows are: s3://quarantine/<pipeline>/<dataset>/dt=…/run_id=…",
            sql(
                f"""
                select r.started_at, r.run_id, r.pipeline, r.state, r.rows_extracted, coalesce(r.rows_rejected, 0) as rows_rejected, r.audits_failed, r.error
                from etl.v_run as r where {SEEN} order by r.started_at desc limit 100
                """
            ),
            {
                "run_id": RUN_LINK,
                "state": colored(RUN_STATES),
                "rows_rejected": graded([(None, "green"), (1, "orange")]),
                "audits_failed": graded(GOOD_IS_ZERO),
                "started_at": unit("dateTimeAsLocal"),
            },
            width=12,
        ),
        rows(
            "Unknown members",
            "Dimension rows that facts name and no source describes: kept, so that no fact is lost, and marked.",
            sql(
                """
                select 'dim_airport' as dimension, count(*) as members, count(*) filter (where not known) as unknown from dwh.dim_airport
                union all
                select 'dim_plane', count(*), count(*) filter (where not known) from dwh.dim_plane
                """
            ),
            {"unknown": graded([(None, "green"), (1, "orange")])},
            width=12,
        ),
        curve(
            "Rejected rows of the last runs",
            "By stage and dataset.",
            metric('sum by (stage, dataset) (etl_stage_rejected_rows{pipeline=~"$pipeline"})', "{{stage}} {{dataset}}"),
            width=12,
        ),
    ):
        made = made.with_panel(panel)
    return made
