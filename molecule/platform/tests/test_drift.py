"""A check finds what side_effect.yml planted; a second run heals that and changes nothing else; a variable restarts one service."""

import pytest

PLANTED_ON = ("postgresql", "airflow", "minio")


def planted_on(platform) -> set[str]:
    return {host for group in PLANTED_ON for host in platform.environment.hosts(group)}


@pytest.fixture(scope="module")
def check(platform):
    """site.yml, checked only, over the planted drift."""
    return platform.playbook("site.yml", "--check", "--diff")


def test_check_runs_to_its_end(check):
    assert check.returncode == 0, check.failed or check.stderr


def test_check_finds_each_drift_and_nothing_else(platform, check):
    assert {host for host, _ in check.changed} == planted_on(platform), sorted(check.changed)


def test_diff_shows_the_drift_but_no_secret(platform, check):
    shown = str([result.get("diff") or result.get("results") for result in check.changed.values()])
    assert "work_mem = '1MB'" in shown
    assert "no_log: true" in shown, "airflow.cfg, whose mode drifted, holds secrets"
    assert not [name for name, value in platform.environment.secrets.items() if value in shown]


def test_a_second_run_heals_it_and_changes_nothing_else(platform, check):
    again = platform.playbook("site.yml")
    assert again.returncode == 0, again.failed or again.stderr
    assert set(check.changed) <= set(again.changed)
    followed = {name.split()[0] for _, name in set(again.changed) - set(check.changed)}
    assert followed <= {"Restart", "Reload"}, "handlers of what was healed"
    assert {host for host, _ in again.changed} == planted_on(platform), sorted(again.changed)
    warehouse, airflow, minio = (platform.environment.hosts(group)[0] for group in ("postgresql", "airflow", "minio"))
    assert "work_mem = '1MB'" not in platform.run(warehouse, "cat /etc/postgresql/17/dwh/conf.d/etl.conf")
    assert platform.run(airflow, "stat -c %a /etc/airflow/airflow.cfg").strip() == "640"
    assert platform.run(minio, "systemctl is-enabled minio.service").strip() == "enabled"


def test_a_changed_variable_restarts_only_its_service(platform):
    before = platform.invocations()
    for arguments in (["-e", "spark_worker_memory=1536m"], []):
        play = platform.playbook("playbooks/transform.yml", *arguments)
        assert play.returncode == 0, play.failed or play.stderr
        after = platform.invocations()
        restarted = {unit for unit in before if after[unit] != before[unit]}
        assert restarted == {(platform.environment.hosts("spark_worker")[0], "spark-worker.service")}
        before = after
