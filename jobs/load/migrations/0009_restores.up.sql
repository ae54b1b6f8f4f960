-- What the ledger knows of restores from backups: which cluster went back to which moment, and on which timeline it went on.

create table etl.restore (
    restore_id text primary key,
    cluster text not null check (cluster in ('dwh', 'meta')),
    target text not null,
    backup text not null,
    former_timeline integer not null,
    timeline integer not null,
    started_at timestamptz not null,
    finished_at timestamptz not null default now(),
    plan jsonb not null,
    republished jsonb
);
comment on table etl.restore is 'Restores of the PostgreSQL clusters from their backups';
comment on column etl.restore.target is 'What was asked for: latest, a moment, lsn:<position>, name:<restore point>';
comment on column etl.restore.former_timeline is 'Timeline of the log that was followed; what came after the moment is still in it';
comment on column etl.restore.republished is 'Runs that were published again, with their versions';

grant select on etl.restore to etl_read;
