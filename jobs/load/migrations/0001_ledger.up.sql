-- The warehouse's schemas and the ledger of every run. Run as etl_owner, who owns everything below.

create schema staging;
comment on schema staging is 'One table per dataset and run, loaded by COPY; gone once published';
create schema dwh;
comment on schema dwh is 'Published: facts partitioned by month, dimensions, aggregates';
create schema dwh_history;
comment on schema dwh_history is 'Former partitions and former rows of published tables, kept to take a publication back';

grant usage, create on schema staging to etl_load;
grant usage on schema dwh, dwh_history, etl to etl_load;
grant usage on schema dwh, etl to etl_read;
alter default privileges in schema dwh grant select on tables to etl_load, etl_read;
alter default privileges in schema dwh_history grant select on tables to etl_load;
alter default privileges in schema etl grant select on tables to etl_load;

create table etl.release (
    release text primary key,
    commit text,
    created_at timestamptz not null default now(),
    state text not null default 'good' check (state in ('good', 'bad')),
    manifest jsonb
);
comment on table etl.release is 'Deployed releases; the truth is the manifest in the object store';

create table etl.run (
    run_id text primary key,
    dag_run_id text not null,
    pipeline text not null,
    release text not null references etl.release,
    attempt integer not null check (attempt > 0),
    interval_from timestamp not null,
    interval_to timestamp not null,
    state text not null default 'running' check (state in ('running', 'published', 'failed', 'undone')),
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    error text,
    check (interval_from < interval_to)
);
comment on table etl.run is 'One row per pipeline run: what it was asked for, by which release, how it ended';
comment on column etl.run.run_id is 'Airflow''s run id with every character other than letters, digits, dot, dash and underscore replaced';
comment on column etl.run.interval_from is 'First moment of the data interval, in the source''s local time';
comment on column etl.run.interval_to is 'End of the data interval (not part of it), in the source''s local time';
create index run_pipeline_started on etl.run (pipeline, started_at desc);

create table etl.run_source (
    run_id text not null references etl.run on delete cascade,
    dataset text not null,
    attempt integer not null,
    source text not null,
    format text not null,
    flow_version text,
    extracted_at timestamptz,
    files integer not null,
    row_count bigint,
    byte_count bigint,
    manifest jsonb not null,
    primary key (run_id, dataset)
);
comment on table etl.run_source is 'What a run extracted: the sealed manifest of every source dataset';
comment on column etl.run_source.row_count is 'Rows the manifest counts; null where files are taken as they are';

create table etl.run_stage (
    run_id text not null references etl.run on delete cascade,
    stage text not null,
    dataset text not null,
    attempt integer,
    rows_in bigint,
    rows_out bigint not null,
    prefix text,
    seconds double precision,
    recorded_at timestamptz not null default now(),
    primary key (run_id, stage, dataset)
);
comment on table etl.run_stage is 'Rows into and out of every stage of a run; a repeated stage replaces its row';
comment on column etl.run_stage.prefix is 'Where the stage wrote the dataset; what is loaded is read from here';

create table etl.run_reject (
    run_id text not null references etl.run on delete cascade,
    stage text not null,
    dataset text not null,
    rule text not null,
    row_count bigint not null,
    primary key (run_id, stage, dataset, rule)
);
comment on table etl.run_reject is 'Rows a stage put into quarantine, by rule';

create table etl.audit_result (
    run_id text not null references etl.run on delete cascade,
    dataset text not null,
    audit text not null,
    passed boolean not null,
    expected text not null,
    found text not null,
    checked_at timestamptz not null default now(),
    primary key (run_id, dataset, audit)
);
comment on table etl.audit_result is 'What the audits found in the staged rows that wait for publication';

create table etl.publication (
    publication_id bigint generated always as identity primary key,
    run_id text not null references etl.run,
    attempt integer not null,
    published_at timestamptz not null default now(),
    undone_at timestamptz,
    rows_kept boolean not null default true
);
comment on table etl.publication is 'One row per publishing transaction: all it changed became visible at once';
comment on column etl.publication.rows_kept is 'False once its entries of dwh_history.row_version are pruned: it can no longer be undone';
create index publication_run on etl.publication (run_id);

create table etl.partition_version (
    version_id bigint generated always as identity primary key,
    table_name text not null,
    partition_name text not null,
    version integer not null,
    lower_bound text not null,
    upper_bound text not null,
    relation text not null,
    run_id text not null references etl.run,
    attempt integer not null,
    row_count bigint,
    replaces bigint references etl.partition_version,
    built_at timestamptz not null default now(),
    publication_id bigint references etl.publication,
    published_at timestamptz,
    current boolean not null default false,
    dropped_at timestamptz,
    unique (partition_name, version),
    check (not current or published_at is not null)
);
comment on table etl.partition_version is 'Every version of every partition: which run made it, where it is now';
comment on column etl.partition_version.relation is 'The version''s table: in dwh while it is published, in dwh_history otherwise';
comment on column etl.partition_version.replaces is 'The version that was published when this one was built; it is put back by an undo';
create unique index partition_version_current on etl.partition_version (partition_name) where current;
create index partition_version_run on etl.partition_version (run_id);

create table dwh_history.row_version (
    publication_id bigint not null references etl.publication,
    table_name text not null,
    change text not null check (change in ('added', 'introduced', 'replaced')),
    content jsonb not null
);
comment on table dwh_history.row_version is
'What a publication did to unpartitioned tables: keys of rows that it added, former rows that it replaced or removed';
comment on column dwh_history.row_version.change is
'introduced: added to a dimension, where later runs may refer to it; added: elsewhere; replaced: the former row';
create index row_version_publication on dwh_history.row_version (publication_id, table_name);

grant insert, update, delete on etl.release, etl.run, etl.run_source, etl.run_stage, etl.run_reject, etl.audit_result to etl_load;
grant insert, update on etl.publication to etl_load;
grant select on etl.migration to etl_load;
grant insert, delete on dwh_history.row_version to etl_load;

create view etl.v_run as
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
    (select sum(j.row_count) from etl.run_reject as j where j.run_id = r.run_id)::bigint as rows_rejected,
    (select count(*) from etl.audit_result as a where a.run_id = r.run_id and not a.passed) as audits_failed,
    (select count(*) from etl.partition_version as p where p.run_id = r.run_id and p.current) as partitions_published,
    r.error
from etl.run as r;
comment on view etl.v_run is 'Runs with their totals';

create view etl.v_published as
select
    p.table_name,
    p.partition_name,
    p.version,
    p.lower_bound,
    p.upper_bound,
    p.row_count,
    p.published_at,
    p.run_id,
    r.pipeline,
    r.release,
    r.interval_from,
    r.interval_to
from etl.partition_version as p
inner join etl.run as r on p.run_id = r.run_id
where p.current;
comment on view etl.v_published is 'What readers see: the published version of every partition and the run it comes from';

grant select on
etl.release, etl.run, etl.run_source, etl.run_stage, etl.run_reject, etl.audit_result, etl.publication, etl.partition_version,
etl.migration, etl.v_run, etl.v_published
to etl_read;
