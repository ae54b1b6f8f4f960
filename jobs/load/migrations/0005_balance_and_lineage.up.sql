-- The equation of every run and source (extracted = published + quarantined + superseded), what became of quarantined rows,
-- where published rows come from, and what retention removed.

alter table etl.run_source
add column source_rows bigint,
add column source_rows_before bigint,
add column counted_by text;
comment on column etl.run_source.source_rows is 'Rows that the source itself counted after the extraction, past NiFi and the object store';
comment on column etl.run_source.source_rows_before is 'The same before the extraction; another number means that the source changed meanwhile';
comment on column etl.run_source.counted_by is 'How the source was counted, or why it could not be';

create table etl.run_published (
    run_id text not null references etl.run on delete cascade,
    dataset text not null,
    table_name text,
    row_count bigint not null,
    primary key (run_id, dataset)
);
comment on table etl.run_published is 'Rows of a source among what a run publishes, counted in its staging tables by the audit';
comment on column etl.run_published.table_name is
'The published table; null for a source that joins only look up: its cleaned rows count';

create table etl.quarantine_replay (
    run_id text not null references etl.run on delete cascade,
    dataset text not null,
    rule text not null,
    replay_run_id text not null references etl.run on delete cascade,
    row_count bigint not null,
    primary key (run_id, dataset, rule, replay_run_id)
);
comment on table etl.quarantine_replay is
'Quarantined rows that a later run took up again; they are released while what that run published is not undone';
create index quarantine_replay_by on etl.quarantine_replay (replay_run_id);

create table etl.lineage_event (
    event_key text primary key,
    event_time timestamptz not null,
    event_type text not null,
    job_namespace text not null,
    job_name text not null,
    run_uuid uuid not null,
    run_id text,
    event jsonb not null,
    loaded_at timestamptz not null default now()
);
comment on table etl.lineage_event is 'OpenLineage run events: of Airflow''s tasks, of extracts, Spark stages, loads and publications';
comment on column etl.lineage_event.event_key is 'SHA-256 of the event: loading it twice leaves one';
comment on column etl.lineage_event.run_id is 'The pipeline run it belongs to; null when it belongs to none';
create index lineage_event_run on etl.lineage_event (run_id, event_time);
create index lineage_event_time on etl.lineage_event (event_time);

create table etl.lineage_dataset (
    event_key text not null references etl.lineage_event on delete cascade,
    direction text not null check (direction in ('input', 'output')),
    namespace text not null,
    name text not null,
    primary key (event_key, direction, namespace, name)
);
comment on table etl.lineage_dataset is 'What each event read and wrote, by OpenLineage''s names';
create index lineage_dataset_name on etl.lineage_dataset (namespace, name);

create table etl.retention (
    retention_id bigint generated always as identity primary key,
    applied_at timestamptz not null default now(),
    kind text not null,
    pipeline text,
    what text not null,
    object_count bigint not null default 0,
    byte_count bigint not null default 0,
    row_count bigint not null default 0
);
comment on table etl.retention is 'What retention removed, when, by which rule';

create view etl.v_quarantine as
select
    j.run_id,
    r.pipeline,
    substr(j.dataset, 7) as dataset,
    j.rule,
    j.row_count,
    s.attempt,
    r.interval_from,
    r.interval_to,
    b.replay_run_id as released_by,
    b.published_at as released_at
from etl.run_reject as j
inner join etl.run as r on j.run_id = r.run_id
inner join etl.run_stage as s on j.run_id = s.run_id and j.stage = s.stage and j.dataset = s.dataset
left join lateral (
    select
        q.replay_run_id,
        p.published_at
    from etl.quarantine_replay as q
    inner join etl.publication as p on q.replay_run_id = p.run_id and p.undone_at is null
    where q.run_id = j.run_id and q.dataset = substr(j.dataset, 7) and q.rule = j.rule
    order by p.publication_id desc
    limit 1
) as b on true
where j.dataset like 'clean\_%' and j.rule <> 'superseded';
comment on view etl.v_quarantine is 'Quarantined rows by run, source and rule, and the run that released them (null: still there)';

create view etl.v_balance as
select
    x.*,
    x.extracted - x.published - x.quarantined - x.superseded as difference,
    x.extracted = x.published + x.quarantined + x.superseded as balanced
from (
    select
        s.run_id,
        r.pipeline,
        r.release,
        r.state,
        s.dataset,
        s.source,
        case
            -- The source changed while it was read: what was read is one of the states between the two counts.
            when
                s.source_rows_before <> s.source_rows
                and s.row_count between least(s.source_rows, s.source_rows_before) and greatest(s.source_rows, s.source_rows_before)
                then s.row_count
            else coalesce(s.source_rows, s.row_count, c.rows_in)
        end as extracted,
        p.row_count as published,
        coalesce(j.quarantined, 0) as quarantined,
        coalesce(j.superseded, 0) as superseded,
        coalesce(q.released, 0) as released,
        p.table_name as published_in,
        s.source_rows is not null as counted_at_source,
        s.counted_by
    from etl.run_source as s
    inner join etl.run as r on s.run_id = r.run_id
    left join etl.run_stage as c on s.run_id = c.run_id and c.dataset = 'clean_' || s.dataset
    left join etl.run_published as p on s.run_id = p.run_id and s.dataset = p.dataset
    left join lateral (
        select
            sum(e.row_count) filter (where e.rule <> 'superseded')::bigint as quarantined,
            sum(e.row_count) filter (where e.rule = 'superseded')::bigint as superseded
        from etl.run_reject as e
        where e.run_id = s.run_id and e.dataset = 'clean_' || s.dataset
    ) as j on true
    left join lateral (
        select sum(v.row_count)::bigint as released
        from etl.v_quarantine as v
        where v.run_id = s.run_id and v.dataset = s.dataset and v.released_by is not null
    ) as q on true
) as x;
comment on view etl.v_balance is
'By run and source: extracted (counted at the source) = published + quarantined + superseded. Released: quarantined, published by a later run';

create or replace view etl.v_run as
select
    r.run_id,
    r.pipeline,
    r.release,
    r.attempt,
    r.interval_from,
    r.interval_to,
    r.state,
    r.started_at,
    r.finished_at,
    r.finished_at - r.started_at as duration,
    (select sum(s.row_count) from etl.run_source as s where s.run_id = r.run_id)::bigint as rows_extracted,
    (select sum(j.row_count) from etl.run_reject as j where j.run_id = r.run_id and j.rule <> 'superseded')::bigint as rows_rejected,
    (select count(*) from etl.audit_result as a where a.run_id = r.run_id and not a.passed) as audits_failed,
    (select count(*) from etl.partition_version as p where p.run_id = r.run_id and p.current) as partitions_published,
    r.error
from etl.run as r;

create function etl.drop_unpublished(p_version_id bigint)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    built etl.partition_version;
begin
    select * into strict built from etl.partition_version
    where version_id = p_version_id and published_at is null and dropped_at is null;
    execute format('drop table if exists %s', built.relation);
    delete from etl.partition_version where version_id = p_version_id;
end
$$;
comment on function etl.drop_unpublished is 'Drops what a run built and never published';
revoke execute on function etl.drop_unpublished(bigint) from public;
grant execute on function etl.drop_unpublished(bigint) to etl_load;

grant insert, update, delete on
etl.run_published, etl.quarantine_replay, etl.lineage_event, etl.lineage_dataset, etl.retention
to etl_load;
grant select on
etl.run_published, etl.quarantine_replay, etl.lineage_event, etl.lineage_dataset, etl.retention, etl.v_quarantine, etl.v_balance
to etl_read;
