-- Who took which runs back, and what became stale by it.

create table etl.undo (
    undo_id bigint generated always as identity primary key,
    undone_at timestamptz not null default now(),
    requested_by text not null,
    reason text,
    run_ids text[] not null,
    plan jsonb not null
);
comment on table etl.undo is 'Runs taken back: who asked, why, and what the plan said';

create table etl.stale_mark (
    undo_id bigint not null references etl.undo,
    table_name text not null,
    pipeline text not null,
    interval_from timestamp not null,
    interval_to timestamp not null,
    reason text not null,
    primary key (undo_id, table_name, pipeline, interval_from, interval_to),
    check (interval_from < interval_to)
);
comment on table etl.stale_mark is 'Published rows that were made from rows taken back since';

create view etl.v_stale as
select
    m.table_name,
    m.pipeline,
    m.interval_from,
    m.interval_to,
    m.reason,
    u.undone_at as since
from etl.stale_mark as m
inner join etl.undo as u on m.undo_id = u.undo_id
where not exists (
    select
    from etl.publication as p
    inner join etl.run as r on p.run_id = r.run_id
    where
        p.published_at > u.undone_at
        and p.undone_at is null
        and r.pipeline = m.pipeline
        and r.interval_from <= m.interval_from
        and r.interval_to >= m.interval_to
);
comment on view etl.v_stale is 'Stale rows that no run has published again since: run the pipeline over the interval';

grant insert on etl.undo, etl.stale_mark to etl_load;
grant select on etl.undo, etl.stale_mark, etl.v_stale to etl_read;
