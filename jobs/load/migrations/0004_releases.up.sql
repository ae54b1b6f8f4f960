-- What the ledger knows of deployments and of the way back. The truth is in the object store, which no restore of the warehouse rewinds.

alter table etl.release
add column serial integer,
add column deployed_at timestamptz,
add column reason text;
comment on column etl.release.serial is 'Number of the manifest that this row shows; a change of state is a new manifest';
comment on column etl.release.reason is 'Why it is bad';

create table etl.rollback (
    rollback_id text primary key,
    from_release text not null,
    to_release text not null,
    data text not null check (data in ('keep', 'restore')),
    state text not null check (state in ('running', 'done')),
    started_at timestamptz not null,
    finished_at timestamptz,
    reason text,
    plan jsonb not null,
    steps jsonb not null
);
comment on table etl.rollback is 'Rollbacks of the release: what was planned, what was done and when';
comment on column etl.rollback.steps is 'Names of the steps with the moment each was done';

grant select on etl.rollback to etl_read;
