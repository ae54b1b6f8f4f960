alter table etl.run_stage drop column months;
