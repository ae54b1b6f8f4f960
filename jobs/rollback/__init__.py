"""Taking back: runs, objects, releases; and the proof that it works.

runs       undo (rollback_queries.sql), republish after a restore of the warehouse
objects    rewind, over rollback_s3 and rollback_gcs
releases   release_tree ─► manifests ─► releases (command line), release_text
           facts ─► plan ─► journal, steps (airflow, buckets) ─► rollback (command line)
alerts     rollback_notifier
drills     drill
"""
