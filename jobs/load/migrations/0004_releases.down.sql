-- loses: etl.rollback
drop table etl.rollback;
alter table etl.release
drop column serial,
drop column deployed_at,
drop column reason;
