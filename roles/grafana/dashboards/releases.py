"""Releases and rollbacks: what is deployed, what each release published, what was taken back."""

from roles.grafana.dashboards.panels import (
    GOOD_IS_ZERO,
    RUN_LINK,
    board,
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
    word,
)

RELEASE_STATES = {"good": "green", "bad": "red"}


def build():
    """The dashboard."""
    made = board(
        "etl-releases",
        "Releases and rollbacks",
        "What is deployed, which release made what readers see, and what was taken back.",
        since="now-30d",
    )

    for panel in (
        word(
            "Newest release",
            "The one deployed last.",
            sql("select release from etl.release order by coalesce(deployed_at, created_at) desc limit 1"),
        ),
        word(
            "Its state",
            "Good until somebody or a rollback marks it bad.",
            sql("select state from etl.release order by coalesce(deployed_at, created_at) desc limit 1"),
            colors=RELEASE_STATES,
        ),
        number(
            "Deployed",
            "How long ago.",
            sql("select extract(epoch from now() - max(coalesce(deployed_at, created_at))) as age from etl.release"),
            unit="s",
        ),
        number(
            "Bad releases",
            "Of all that the ledger knows.",
            sql("select count(*) filter (where state = 'bad') as bad from etl.release"),
            steps=GOOD_IS_ZERO,
        ),
        number(
            "Publications taken back",
            "In the dashboard's time.",
            sql("select count(*) filter (where $__timeFilter(undone_at)) as undone from etl.publication"),
            steps=[(None, "green"), (1, "orange")],
        ),
        number(
            "Stale intervals",
            "Published rows that were made from rows taken back since: run the pipeline over the interval.",
            sql("select count(*) as stale from etl.v_stale"),
            steps=[(None, "green"), (1, "orange")],
        ),
        rows(
            "Releases",
            "What each release ran and published. The truth is the manifest in s3://releases; this is the ledger's copy.",
            sql(
                """
                select l.release, l.state, coalesce(l.deployed_at, l.created_at) as deployed_at, l.commit, l.reason, count(r.run_id) as runs, count(r.run_id) filter (where r.state = 'failed') as failed,
                count(r.run_id) filter (where r.state = 'undone') as undone,
                (select count(*) from etl.v_published as p where p.release = l.release) as partitions_seen
                from etl.release as l left join etl.run as r on r.release = l.release group by l.release order by 3 desc limit 50
                """
            ),
            {
                "state": colored(RELEASE_STATES),
                "deployed_at": unit("dateTimeAsLocal"),
                "failed": graded(GOOD_IS_ZERO),
                "undone": graded([(None, "green"), (1, "orange")]),
            },
            width=16,
            height=10,
        ),
        ranking(
            "Whose rows readers see",
            "Published rows by the release that made them.",
            sql(
                "select release, sum(row_count) as rows from etl.v_published group by release order by 2 desc limit 10"
            ),
            height=10,
        ),
        states(
            "Release of the last run",
            "Which release ran each pipeline's last run, over time.",
            metric("max by (pipeline, release) (etl_last_run_info)", "{{pipeline}} {{release}}"),
            texts={"1": ("ran", "blue")},
        ),
        curve(
            "Runs by state",
            "Runs in the ledger, by how they ended.",
            metric("sum by (state) (etl_runs_total)", "{{state}}"),
            width=12,
            stacked=True,
        ),
        rows(
            "Publications",
            "One row a publishing transaction: all that it changed became visible at once. Taken back: the former versions are what readers see again.",
            sql(
                """
                select p.publication_id, p.published_at, r.pipeline, p.run_id, r.release,
                case when p.undone_at is null then 'stands' else 'taken back' end as state, p.undone_at,
                case when p.rows_kept then 'yes' else 'no' end as can_be_taken_back,
                (select count(*) from etl.partition_version as v where v.publication_id = p.publication_id) as partitions
                from etl.publication as p inner join etl.run as r on r.run_id = p.run_id
                where $__timeFilter(p.published_at) order by p.published_at desc limit 100
                """
            ),
            {
                "run_id": RUN_LINK,
                "state": colored({"stands": "green", "taken back": "orange"}),
                "published_at": unit("dateTimeAsLocal"),
                "undone_at": unit("dateTimeAsLocal"),
            },
            width=16,
            height=10,
        ),
        ranking(
            "Partition versions",
            "By partition, the most often replaced first.",
            sql(
                "select partition_name, max(version) as versions from etl.partition_version group by partition_name order by 2 desc, 1 limit 15"
            ),
            height=10,
        ),
        rows(
            "Taken back",
            "Rollbacks of a release, undone runs and restores of the warehouse, the newest first; one row of `none` says that there was none.",
            sql(
                """
                select b.at, coalesce(b.kind, 'none') as kind, b.what, b.state, b.seconds, b.reason from (select 1) as always
                left join (
                select started_at as at, 'rollback' as kind, from_release || ' → ' || to_release || ' (data: ' || data || ')' as what, state,
                extract(epoch from finished_at - started_at) as seconds, reason from etl.rollback
                union all
                select undone_at, 'undo', array_to_string(run_ids, ', '), 'done', null, reason from etl.undo
                union all
                select started_at, 'restore', cluster || ' to ' || target, 'done', extract(epoch from finished_at - started_at), backup from etl.restore
                ) as b on $__timeFilter(b.at) order by b.at desc limit 50
                """
            ),
            {
                "at": unit("dateTimeAsLocal"),
                "kind": colored({"rollback": "orange", "undo": "orange", "restore": "red", "none": "green"}),
                "seconds": unit("s"),
            },
            width=16,
        ),
        rows(
            "Schema migrations",
            "Levels of the warehouse's schema and when they were applied.",
            sql("select level, name, applied_at, applied_by from etl.migration order by level desc limit 50"),
            width=8,
        ),
    ):
        made = made.with_panel(panel)
    return made
