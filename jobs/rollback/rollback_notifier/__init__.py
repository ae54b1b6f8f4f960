"""Alertmanager's webhooks become proposals to take data or a release back, within guards; a person approves.

An alert that a rule matches opens an incident. Action `undo` triggers rollback_dag in Airflow, whose first task plans; the plan is
held against the limits, then waits for approval (or, where the rule says so, goes on by itself). Action `release` only proposes: a
release is taken back from the controller. State is in SQLite and survives a restart; every decision is a line of the audit log, each
with the hash of the line before it.

    policy     the configuration: rules, limits, settings        incidents   the state, in SQLite
    airflow    rollback_dag over Airflow's API                   audit_log   what was decided, tamper-evident
    notifier   what opens an incident, what each step does       service     the HTTP side      cli   the command line

Installed by roles/rollback_notifier outside the releases, so imports within are relative, and nothing of `jobs` is used.
"""
