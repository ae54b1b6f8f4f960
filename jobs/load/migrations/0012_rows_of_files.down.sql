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
