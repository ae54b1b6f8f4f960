-- Pipelines that replace every month in which rows are new or changed record which months those are.
alter table etl.run_stage add column months date[];
comment on column etl.run_stage.months is
'First days of the months that the rows are in, where the run replaces those and not its interval; null elsewhere';
