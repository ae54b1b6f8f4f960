"""A run that fails half-way: the next one finds files as they should be, so what reads them was told before."""


def test_what_changed_is_applied_although_another_host_failed(play, tmp_path):
    tasks = [
        {
            "ansible.builtin.file": {"path": f"{tmp_path}/{{{{ inventory_hostname }}}}", "state": "touch"},
            "notify": "Restart",
        },
        {"ansible.builtin.assert": {"that": "inventory_hostname != 'lake1'"}},
        {"ansible.builtin.meta": "flush_handlers"},
    ]
    restarted = f"{tmp_path}/{{{{ inventory_hostname }}}}.restarted"
    handlers = [{"name": "Restart", "ansible.builtin.file": {"path": restarted, "state": "touch"}}]
    done = play(tasks, {}, hosts="lake1,ingest1", handlers=handlers)
    assert done.returncode != 0, done.stdout
    assert {path.name for path in tmp_path.glob("*.restarted")} == {"lake1.restarted", "ingest1.restarted"}, done.stdout
