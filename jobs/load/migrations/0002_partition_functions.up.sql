-- The only ways in which the loader may shape published tables. The functions run as etl_owner, who owns the tables:
-- etl_load cannot alter, drop, attach or detach anything of dwh otherwise. Names are checked, the search path is fixed.

create function etl.build_partition(p_table text, p_partition text, p_lower text, p_upper text, p_run_id text, p_attempt integer)
returns etl.partition_version
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    parent regclass := to_regclass(format('dwh.%I', p_table));
    key_column name;
    left_over etl.partition_version;
    made etl.partition_version;
begin
    select a.attname into key_column
    from pg_partitioned_table as p
    inner join pg_attribute as a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
    where p.partrelid = parent and p.partstrat = 'r' and p.partnatts = 1;
    if key_column is null then
        raise exception 'dwh.% is not a table partitioned by range of one column', p_table using errcode = 'wrong_object_type';
    end if;
    if p_partition !~ ('^' || p_table || '_[0-9]{4,8}$') then
        raise exception '% is no name of a partition of dwh.%', p_partition, p_table using errcode = 'invalid_name';
    end if;
    if length(p_partition) > 56 then
        raise exception '% is too long for a partition that is kept as a version', p_partition using errcode = 'name_too_long';
    end if;

    -- What an interrupted run built and never published.
    for left_over in
        select * from etl.partition_version where partition_name = p_partition and published_at is null and dropped_at is null
    loop
        execute format('drop table if exists %s', left_over.relation);
        delete from etl.partition_version where version_id = left_over.version_id;
    end loop;

    insert into etl.partition_version (
        table_name, partition_name, version, lower_bound, upper_bound, relation, run_id, attempt, replaces
    )
    select
        p_table, p_partition, next.version, p_lower, p_upper,
        format('dwh_history.%s__v%s', p_partition, lpad(next.version::text, 4, '0')), p_run_id, p_attempt,
        (select version_id from etl.partition_version where partition_name = p_partition and current)
    from (
        select coalesce(max(version), 0) + 1 as version from etl.partition_version where partition_name = p_partition
    ) as next
    returning * into made;

    execute format(
        'create table %s (like %s including all excluding indexes excluding identity excluding statistics)', made.relation, parent
    );
    -- The CHECK repeats the bounds: attaching believes it and scans nothing.
    execute format(
        'alter table %s add constraint bounds check (%I is not null and %I >= %L and %I < %L)',
        made.relation, key_column, key_column, p_lower, key_column, p_upper
    );
    execute format('grant insert on %s to etl_load', made.relation);
    return made;
end
$$;
comment on function etl.build_partition is
'Makes an empty, unattached table for a new version of a partition; the loader fills it, then seals it';

create function etl.seal_partition(p_version_id bigint)
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    built etl.partition_version;
    index record;
    rows bigint;
begin
    select * into strict built from etl.partition_version where version_id = p_version_id and published_at is null;
    execute format('revoke insert on %s from etl_load', built.relation);
    for index in
        select
            i.indisprimary,
            pg_get_constraintdef(c.oid) as primary_key,
            regexp_replace(pg_get_indexdef(i.indexrelid), ' INDEX .* ON (ONLY )?\S+ USING ', ' INDEX ON ' || built.relation || ' USING ')
                as definition
        from pg_index as i
        left join pg_constraint as c on c.conindid = i.indexrelid and c.contype = 'p'
        where i.indrelid = format('dwh.%I', built.table_name)::regclass
        order by i.indisprimary desc, i.indexrelid
    loop
        if index.indisprimary then
            execute format('alter table %s add %s', built.relation, index.primary_key);
        else
            execute index.definition;
        end if;
    end loop;
    execute format('analyze %s', built.relation);
    execute format('select count(*) from %s', built.relation) into rows;
    update etl.partition_version set row_count = rows where version_id = p_version_id;
    return rows;
end
$$;
comment on function etl.seal_partition is
'Closes a filled partition: no more rows, the parent''s key and indexes, statistics. Returns its rows';

create function etl.lock_published(p_tables text[], p_mode text)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    name text;
begin
    if p_mode not in ('write', 'swap') then
        raise exception 'mode % is neither write nor swap', p_mode using errcode = 'invalid_parameter_value';
    end if;
    for name in select distinct t from unnest(p_tables) as t order by t loop
        execute format(
            'lock table only dwh.%I in %s mode', name, case p_mode when 'swap' then 'access exclusive' else 'share row exclusive' end
        );
    end loop;
end
$$;
comment on function etl.lock_published is
'Locks published tables until the end of the transaction, in the order of their names: write keeps writers out, swap readers too';

-- Moves a published version out of its parent, or a kept one into it. Internal: callers hold the lock.
create function etl.detach_version(p_version_id bigint)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    old etl.partition_version;
    former text;
begin
    select * into strict old from etl.partition_version where version_id = p_version_id and current;
    former := format('%s__v%s', old.partition_name, lpad(old.version::text, 4, '0'));
    execute format('alter table dwh.%I detach partition dwh.%I', old.table_name, old.partition_name);
    execute format('alter table dwh.%I rename to %I', old.partition_name, former);
    execute format('alter table dwh.%I set schema dwh_history', former);
    update etl.partition_version set current = false, relation = 'dwh_history.' || former where version_id = p_version_id;
end
$$;
comment on function etl.detach_version is 'Part of publish_partition and undo_publication';

create function etl.attach_version(p_version_id bigint)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    new etl.partition_version;
begin
    select * into strict new from etl.partition_version where version_id = p_version_id and not current and dropped_at is null;
    execute format('alter table %s set schema dwh', new.relation);
    execute format('alter table dwh.%I rename to %I', split_part(new.relation, '.', 2), new.partition_name);
    execute format(
        'alter table dwh.%I attach partition dwh.%I for values from (%L) to (%L)',
        new.table_name, new.partition_name, new.lower_bound, new.upper_bound
    );
    update etl.partition_version set
        current = true, relation = 'dwh.' || new.partition_name, published_at = now()
    where version_id = p_version_id;
end
$$;
comment on function etl.attach_version is 'Part of publish_partition and undo_publication';

create function etl.publish_partition(p_version_id bigint, p_publication_id bigint)
returns etl.partition_version
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    new etl.partition_version;
    published bigint;
begin
    select * into strict new from etl.partition_version
    where version_id = p_version_id and published_at is null and row_count is not null;
    select version_id into published from etl.partition_version where partition_name = new.partition_name and current;
    if published is distinct from new.replaces then
        raise exception 'another run has published % since version % was built', new.partition_name, new.version
            using errcode = 'serialization_failure';
    end if;
    if published is not null then
        perform etl.detach_version(published);
    end if;
    perform etl.attach_version(p_version_id);
    update etl.partition_version set publication_id = p_publication_id where version_id = p_version_id returning * into new;
    return new;
end
$$;
comment on function etl.publish_partition is
'Swaps a sealed partition in and the published one out; refuses when another version was published meanwhile';

create function etl.undo_publication(p_publication_id bigint)
returns setof etl.partition_version
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    version etl.partition_version;
begin
    for version in
        select * from etl.partition_version where publication_id = p_publication_id order by partition_name
    loop
        if not version.current then
            raise exception '% is no longer published as version %: undo the later run first', version.partition_name, version.version
                using errcode = 'object_not_in_prerequisite_state';
        end if;
        if exists (select from etl.partition_version where version_id = version.replaces and dropped_at is not null) then
            raise exception 'the version of % before version % is no longer kept', version.partition_name, version.version
                using errcode = 'object_not_in_prerequisite_state';
        end if;
        perform etl.detach_version(version.version_id);
        if version.replaces is not null then
            perform etl.attach_version(version.replaces);
            return query select * from etl.partition_version where version_id = version.replaces;
        end if;
    end loop;
end
$$;
comment on function etl.undo_publication is
'Swaps the partitions of a publication back; returns the versions that are published again. Refuses when a later run stands on it';

create function etl.prune_history(p_table text, p_keep integer)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    old etl.partition_version;
    dropped integer := 0;
begin
    if p_keep < 0 then
        raise exception 'cannot keep % former versions', p_keep using errcode = 'invalid_parameter_value';
    end if;
    for old in
        select v.*
        from (
            select *, row_number() over (partition by partition_name order by version desc) as age
            from etl.partition_version
            where table_name = p_table and not current and published_at is not null and dropped_at is null
        ) as v
        where v.age > p_keep
    loop
        execute format('drop table %s', old.relation);
        update etl.partition_version set dropped_at = now() where version_id = old.version_id;
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;
comment on function etl.prune_history is 'Drops former versions of the partitions of a table beyond the newest ones to keep; returns how many';

revoke execute on all functions in schema etl from public;
grant execute on function
etl.build_partition(text, text, text, text, text, integer),
etl.seal_partition(bigint),
etl.lock_published(text[], text),
etl.publish_partition(bigint, bigint),
etl.undo_publication(bigint),
etl.prune_history(text, integer)
to etl_load;
