-- The statements that load, publish and take back, by name (jobs/load/statements.py). Placeholders are filled in by the caller
-- with quoted names, lists of columns and literals; nothing here knows a pipeline.

-- name: create_staged
create table %(staged)s as table %(target)s with no data;

-- name: stamp_staged
alter table %(staged)s
alter column run_id set default %(run_id)s,
alter column release set default %(release)s;

-- name: copy_staged
copy %(staged)s (%(columns)s) from stdin (format csv);

-- name: keep_outside_interval
insert into %(relation)s (%(columns)s)
select %(columns)s
from %(target)s
where
    %(key)s >= %(lower)s
    and %(key)s < %(upper)s
    and not (%(key)s >= %(interval_from)s and %(key)s < %(interval_to)s);

-- name: fill_partition
insert into %(relation)s (%(columns)s)
select %(columns)s
from %(staged)s
where %(key)s >= %(lower)s and %(key)s < %(upper)s;

-- name: remember_replaced
insert into dwh_history.row_version (publication_id, table_name, change, content)
select
    %(publication_id)s,
    %(name)s,
    'replaced',
    to_jsonb(t)
from %(target)s as t
inner join %(staged)s as s on %(same_key)s
where %(differs)s;

-- name: remember_introduced
insert into dwh_history.row_version (publication_id, table_name, change, content)
select
    %(publication_id)s,
    %(name)s,
    'introduced',
    jsonb_build_object(%(key_object)s)
from %(staged)s as s
where not exists (select from %(target)s as t where %(same_key)s);

-- name: merge_dimension
merge into %(target)s as t
using %(staged)s as s on %(same_key)s
when matched and %(differs)s then update set %(assignments)s
when not matched then insert (%(columns)s) values (%(staged_columns)s);

-- name: remember_interval
insert into dwh_history.row_version (publication_id, table_name, change, content)
select
    %(publication_id)s,
    %(name)s,
    'replaced',
    to_jsonb(t)
from %(target)s as t
where %(replaced)s
union all
select
    %(publication_id)s,
    %(name)s,
    'added',
    jsonb_build_object(%(key_object)s)
from %(staged)s as s;

-- name: delete_interval
delete from %(target)s
where %(replaced)s;

-- name: insert_staged
insert into %(target)s (%(columns)s)
select %(columns)s from %(staged)s;

-- name: forget_rows
with old as (
    select r.publication_id
    from dwh_history.row_version as r
    where r.table_name = %(name)s
    group by r.publication_id
    order by r.publication_id desc
    offset %(keep)s
),

pruned as (
    delete from dwh_history.row_version
    where table_name = %(name)s and publication_id in (select old.publication_id from old)
)

update etl.publication set rows_kept = false
where publication_id in (select old.publication_id from old);

-- name: undo_rows
with changed as (
    select r.*
    from dwh_history.row_version as h
    cross join lateral jsonb_populate_record(cast(null as %(target)s), h.content) as r
    where
        h.publication_id = %(publication_id)s
        and h.table_name = %(name)s
        and (h.change <> 'introduced' or %(newest)s)
)

delete from %(target)s as t
using changed as r
where t.run_id = %(run_id)s and %(same_key)s;

-- name: restore_rows
insert into %(target)s (%(columns)s)
select %(restored_columns)s
from dwh_history.row_version as h
cross join lateral jsonb_populate_record(cast(null as %(target)s), h.content) as r
where h.publication_id = %(publication_id)s and h.table_name = %(name)s and h.change = 'replaced'
on conflict do nothing;

-- name: bypass_undone
-- A later run that replaced rows of the undone one would put them back when it is undone itself: it remembers those before them.
with remembered as (
    select
        later.ctid as place,
        later.publication_id,
        own.change,
        own.content
    from dwh_history.row_version as own
    inner join dwh_history.row_version as later on own.table_name = later.table_name and %(same_content)s
    where
        own.publication_id = %(publication_id)s
        and own.table_name = %(name)s
        and later.publication_id > %(publication_id)s
        and later.publication_id <> all(%(publications)s)
        and later.change = 'replaced'
        and later.content ->> 'run_id' = %(run_id)s
),

gone as (
    delete from dwh_history.row_version as later
    using remembered
    where later.ctid = remembered.place
)

insert into dwh_history.row_version (publication_id, table_name, change, content)
select
    remembered.publication_id,
    %(name)s,
    remembered.change,
    remembered.content
from remembered;

-- name: lock_holders
select string_agg(distinct concat_ws(' ', a.usename, 'pid', a.pid, nullif(a.application_name, '')), ', ')
from pg_locks as l
inner join pg_stat_activity as a on l.pid = a.pid
where l.relation = any(%(relations)s::regclass[]::oid[]) and l.granted and l.pid <> pg_backend_pid();
