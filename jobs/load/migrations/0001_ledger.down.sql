-- loses: etl.run, etl.release
drop schema dwh_history cascade;
drop schema dwh cascade;
drop schema staging cascade;
drop view etl.v_published, etl.v_run;
drop table
etl.partition_version, etl.publication, etl.audit_result, etl.run_reject, etl.run_stage, etl.run_source, etl.run, etl.release;
alter default privileges in schema etl revoke select on tables from etl_load;
revoke usage on schema etl from etl_load, etl_read;
revoke select on etl.migration from etl_load, etl_read;
