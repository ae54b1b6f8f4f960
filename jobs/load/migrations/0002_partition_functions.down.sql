-- Nothing is lost: published and kept partitions stay as they are.
drop function etl.prune_history(text, integer);
drop function etl.undo_publication(bigint);
drop function etl.publish_partition(bigint, bigint);
drop function etl.attach_version(bigint);
drop function etl.detach_version(bigint);
drop function etl.lock_published(text[], text);
drop function etl.seal_partition(bigint);
drop function etl.build_partition(text, text, text, text, text, integer);
