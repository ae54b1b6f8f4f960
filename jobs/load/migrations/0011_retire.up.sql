-- A pipeline goes as a whole: its tables with all their versions, and what the ledger says that readers see of it.

create function etl.retire_pipeline(p_pipeline text, p_tables text[])
returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    old etl.partition_version;
    target text;
    dropped integer := 0;
begin
    perform from etl.run where pipeline = p_pipeline and state = 'running';
    if found then
        raise exception 'a run of % is not over: wait for it, or end it', p_pipeline using errcode = 'object_in_use';
    end if;
    foreach target in array p_tables loop
        perform from etl.partition_version as v inner join etl.run as r on v.run_id = r.run_id
        where v.table_name = target and r.pipeline <> p_pipeline;
        if found then
            raise exception 'dwh.% is not of the pipeline %', target, p_pipeline using errcode = 'invalid_parameter_value';
        end if;
        for old in select * from etl.partition_version where table_name = target and dropped_at is null loop
            execute format('drop table if exists %s', old.relation);
            update etl.partition_version set current = false, dropped_at = now() where version_id = old.version_id;
            dropped := dropped + 1;
        end loop;
        delete from dwh_history.row_version where table_name = target;
        execute format('drop table dwh.%I', target);
    end loop;
    update etl.publication as p set undone_at = coalesce(p.undone_at, now()), rows_kept = false
    from etl.run as r where p.run_id = r.run_id and r.pipeline = p_pipeline;
    return dropped;
end
$$;
comment on function etl.retire_pipeline is
'For a migration: drops the tables of a pipeline with every version; its runs stay in the ledger as not published. Returns the versions';
revoke execute on function etl.retire_pipeline from public;
