"""Warehouse: what readers see, and how the PostgreSQL clusters are."""

from roles.grafana.dashboards.panels import (
    GOOD_IS_ONE,
    GOOD_IS_ZERO,
    RUN_LINK,
    board,
    curve,
    graded,
    metric,
    number,
    ranking,
    rows,
    sql,
    unit,
)


def build():
    """The dashboard."""
    made = board(
        "etl-warehouse",
        "Warehouse",
        "Published tables, their partitions and versions, and the PostgreSQL clusters below them.",
    )

    for panel in (
        number(
            "Clusters up",
            "Least of the clusters: 0 when one of them refuses its exporter.",
            metric("min(pg_up)", now=True),
            steps=GOOD_IS_ONE,
        ),
        number(
            "Oldest published table",
            "The age of the table that was published longest ago. Readers see nothing newer.",
            metric("max(etl_published_age_seconds)", now=True),
            unit="s",
            steps=[(None, "green"), (93600, "red")],
        ),
        number(
            "Rows published",
            "All partitions that readers see.",
            sql("select coalesce(sum(row_count), 0) as rows from etl.v_published"),
        ),
        number(
            "Connections used",
            "Of those that the warehouse allows.",
            sql(
                """
                select count(*)::float8 / current_setting('max_connections')::int as used
                from pg_catalog.pg_stat_activity where backend_type = 'client backend'
                """
            ),
            unit="percentunit",
            steps=[(None, "green"), (0.7, "orange"), (0.9, "red")],
        ),
        number(
            "Longest transaction",
            "An old transaction keeps dead rows and makes a publication wait.",
            metric("max(pg_stat_activity_max_tx_duration) or vector(0)", now=True),
            unit="s",
            steps=[(None, "green"), (600, "orange"), (3600, "red")],
        ),
        number(
            "Staging left behind",
            "Staging tables of runs that are not at work: a failed run keeps its staged rows for a look.",
            sql(
                """
                select count(*) as tables from pg_catalog.pg_tables
                where schemaname = 'staging' and not exists (select 1 from etl.run where state = 'running')
                """
            ),
            steps=[(None, "green"), (1, "orange")],
        ),
        rows(
            "Published tables",
            "What readers see, by table: how much, how old, from which run.",
            sql(
                """
                select p.table_name, count(*) as partitions, sum(p.row_count) as "rows", min(p.lower_bound) as "from", max(p.upper_bound) as "to",
                extract(epoch from now() - max(p.published_at)) as age, (array_agg(p.pipeline order by p.published_at desc))[1] as pipeline,
                (array_agg(p.run_id order by p.published_at desc))[1] as run_id
                from etl.v_published as p group by p.table_name order by p.table_name
                """
            ),
            {"run_id": RUN_LINK, "age": graded([(None, "green"), (93600, "red")], "s")},
            width=16,
        ),
        ranking(
            "Largest tables",
            "Bytes of table, indexes and out-of-line values, partitions added up.",
            sql(
                """
                select coalesce(i.inhparent::regclass, c.oid::regclass)::text as relation, sum(pg_total_relation_size(c.oid)) as bytes
                from pg_catalog.pg_class as c left join pg_catalog.pg_inherits as i on i.inhrelid = c.oid
                where c.relkind = 'r' and c.relnamespace in (select oid from pg_catalog.pg_namespace where nspname in ('dwh', 'dwh_history', 'staging', 'etl'))
                group by 1 order by 2 desc limit 15
                """
            ),
            unit="bytes",
        ),
        rows(
            "Partitions",
            "The published version of every partition. A version above 1 replaced another one, which can be put back.",
            sql(
                """
                select table_name, partition_name, version, lower_bound, upper_bound, row_count as "rows", published_at, pipeline, run_id, release
                from etl.v_published order by table_name, lower_bound
                """
            ),
            {"run_id": RUN_LINK, "published_at": unit("dateTimeAsLocal")},
            width=16,
            height=10,
        ),
        ranking(
            "Former versions kept",
            "By table: versions in dwh_history that an undo can put back.",
            sql(
                """
                select table_name, count(*) filter (where not current and dropped_at is null and published_at is not null) as versions
                from etl.partition_version group by table_name order by table_name
                """
            ),
            height=10,
        ),
        curve(
            "Rows over time",
            "By table, over time.",
            metric("sum by (table_name) (etl_published_rows)", "{{table_name}}"),
        ),
        curve(
            "Database size",
            "By database.",
            metric('pg_database_size_bytes{datname!~"template.*|postgres"}', "{{datname}}"),
            unit="bytes",
        ),
        curve(
            "Transactions",
            "Committed (above) and rolled back (below) a second.",
            metric(
                'sum by (datname) (rate(pg_stat_database_xact_commit{datname!~"template.*|postgres|"}[$__rate_interval]))',
                "{{datname}} committed",
            ),
            metric(
                '-sum by (datname) (rate(pg_stat_database_xact_rollback{datname!~"template.*|postgres|"}[$__rate_interval]))',
                "{{datname}} rolled back",
            ),
            unit="ops",
            least=None,
        ),
        curve(
            "Connections",
            "By database and state.",
            metric("sum by (datname, state) (pg_stat_activity_count > 0)", "{{datname}} {{state}}"),
            stacked=True,
        ),
        curve(
            "Cache hits",
            "Share of blocks that were found in PostgreSQL's own memory.",
            metric(
                'sum by (datname) (rate(pg_stat_database_blks_hit{datname=~"dwh|airflow"}[$__rate_interval])) / '
                '(sum by (datname) (rate(pg_stat_database_blks_hit{datname=~"dwh|airflow"}[$__rate_interval])) + '
                'sum by (datname) (rate(pg_stat_database_blks_read{datname=~"dwh|airflow"}[$__rate_interval])) > 0)',
                "{{datname}}",
            ),
            unit="percentunit",
        ),
        curve(
            "Waiting and deadlocked",
            "Deadlocks and conflicts a second. Both are 0 when pipelines publish in their fixed order.",
            metric(
                'sum by (datname) (rate(pg_stat_database_deadlocks{datname=~"dwh|airflow"}[$__rate_interval]))',
                "{{datname}} deadlocks",
            ),
            metric(
                'sum by (datname) (rate(pg_stat_database_conflicts{datname=~"dwh|airflow"}[$__rate_interval]))',
                "{{datname}} conflicts",
            ),
            steps=GOOD_IS_ZERO,
        ),
    ):
        made = made.with_panel(panel)
    return made
