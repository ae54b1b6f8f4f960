"""The strategy `linear` with one Python process on each host for all tasks (mitogen) instead of one per task.

ansible.cfg names plugins by directory, and where pip puts mitogen's depends on the Python version: this brings it in.
`ANSIBLE_STRATEGY=linear` runs without it.
"""

import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.strategy

# Mitogen's own pins Ansible to one CPU, and with it what a play starts on the controller: the lab's hosts.
ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()
Linear = ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, Linear):
    pass
