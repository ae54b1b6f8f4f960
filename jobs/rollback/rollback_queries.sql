-- What undo.py asks the ledger, by name (jobs/load/statements.py). The swap itself is etl.undo_publication.

-- name: runs_of_interval
-- Newest publication first.
select
    r.run_id,
    r.interval_from,
    r.interval_to
from etl.run as r
inner join etl.publication as p on r.run_id = p.run_id
where
    r.pipeline = %(pipeline)s
    and p.undone_at is null
    and r.interval_from < %(interval_to)s::timestamp
    and r.interval_to > %(interval_from)s::timestamp
group by r.run_id
order by max(p.publication_id) desc;

-- name: runs_of_newer_releases
select r.run_id
from etl.run as r
inner join etl.release as newer on r.release = newer.release
inner join etl.release as kept on kept.release = %(release)s and newer.created_at > kept.created_at
where exists (select from etl.publication as p where p.run_id = r.run_id and p.undone_at is null);

-- name: runs
-- Newest publication first; runs without an open publication last.
select
    r.run_id,
    r.pipeline,
    r.release,
    r.interval_from,
    r.interval_to,
    r.state,
    max(p.published_at) filter (where p.undone_at is null) as published_at,
    coalesce(array_agg(p.publication_id order by p.publication_id desc) filter (where p.undone_at is null), '{}') as publications,
    coalesce(bool_and(p.rows_kept) filter (where p.undone_at is null), true) as rows_kept,
    count(p.publication_id) as published_ever
from etl.run as r
left join etl.publication as p on r.run_id = p.run_id
where r.run_id = any(%(run_ids)s)
group by r.run_id
order by max(p.publication_id) filter (where p.undone_at is null) desc nulls last, r.run_id;

-- name: partitions
-- What each partition has now and what it goes back to: down the chain of versions until one that is not taken back.
with recursive chain as (
    select
        v.version_id as top_id,
        v.version_id,
        v.replaces,
        v.publication_id,
        0 as depth
    from etl.partition_version as v
    where v.current and v.publication_id = any(%(publications)s)
    union all
    select
        c.top_id,
        v.version_id,
        v.replaces,
        v.publication_id,
        c.depth + 1 as depth
    from chain as c
    inner join etl.partition_version as v on c.replaces = v.version_id
    where c.publication_id = any(%(publications)s)
),

bottom as (
    select distinct on (c.top_id)
        c.top_id,
        case when c.publication_id <> all(%(publications)s) then c.version_id end as version_id
    from chain as c
    order by c.top_id asc, c.depth desc
)

select
    old.table_name as table,
    old.partition_name as partition,
    old.lower_bound,
    old.upper_bound,
    old.version as version_now,
    old.run_id as run_now,
    old.row_count as rows_now,
    new.version as version_after,
    new.run_id as run_after,
    coalesce(new.row_count, 0) as rows_after,
    new.dropped_at is not null as dropped
from bottom as b
inner join etl.partition_version as old on b.top_id = old.version_id
left join etl.partition_version as new on b.version_id = new.version_id
order by old.partition_name;

-- name: restored_rows
select
    h.table_name as table,
    count(*) filter (where h.change = 'replaced') as rows_put_back,
    count(*) filter (where h.change = 'added') as rows_removed,
    count(*) filter (where h.change = 'introduced') as rows_introduced
from dwh_history.row_version as h
where h.publication_id = any(%(publications)s)
group by h.table_name
order by h.table_name;

-- name: later_runs
-- Runs that published after the ones taken back and stay: what they made may stand on rows that go.
select distinct
    r.run_id,
    r.pipeline,
    r.interval_from,
    r.interval_to
from etl.publication as p
inner join etl.run as r on p.run_id = r.run_id
where
    p.publication_id > (select min(taken) from unnest(%(publications)s::bigint[]) as taken)
    and p.publication_id <> all(%(publications)s)
    and p.undone_at is null
order by r.run_id;

-- name: lineage_readers
-- What later runs that stay made from published tables that the runs taken back wrote, as their lineage events tell.
select distinct
    made.name as read_table,
    written.name as table,
    r.run_id,
    r.pipeline,
    r.interval_from,
    r.interval_to
from etl.lineage_event as wrote
inner join etl.lineage_dataset as made
    on wrote.event_key = made.event_key and made.direction = 'output' and made.namespace like 'postgres%%'
inner join etl.lineage_dataset as used
    on made.namespace = used.namespace and made.name = used.name and used.direction = 'input'
inner join etl.lineage_event as reader
    on used.event_key = reader.event_key and wrote.event_time < reader.event_time and reader.run_id <> all(%(run_ids)s)
inner join etl.lineage_dataset as written
    on used.event_key = written.event_key and written.direction = 'output' and made.name <> written.name
inner join etl.run as r on reader.run_id = r.run_id
where
    wrote.run_id = any(%(run_ids)s)
    and exists (select from etl.publication as p where p.run_id = r.run_id and p.undone_at is null)
order by written.name, r.run_id;

-- name: running
select run_id
from etl.run
where
    state = 'running'
    and pipeline = any(%(pipelines)s)
    and interval_from < %(interval_to)s::timestamp
    and interval_to > %(interval_from)s::timestamp
order by run_id;
