-- loses: etl.restore
drop table etl.restore;
