-- loses: etl.undo, etl.stale_mark
drop view etl.v_stale;
drop table etl.stale_mark;
drop table etl.undo;
