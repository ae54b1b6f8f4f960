"""Prints what Terraform takes to plan and apply the profile prod by its number of nodes, over a mocked provider. Asserts nothing.

    python benchmarks/cloud_plan.py [--nodes 20 100 200]

first    planning an empty project: seconds, and the resources of the plan
again    applying it (which the mock answers at once) and planning what is applied: seconds; what a cloud takes comes on top
memory   the largest process (Terraform or the provider) over all of it, MB
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "ansible/bin")]

from tests.cloud.terraform import initialised, provider, without_backend  # noqa: E402
from tests.cloud.test_mocks import MOCKS, REQUIRED  # noqa: E402

OTHERS = 8  # hosts of the profile that are no workers
PLAN = 'run "first" {\n  command = plan\n}\n'
AGAIN = 'run "applied" {}\nrun "again" {\n  command = plan\n}\n'


def test(directory: Path, runs: str) -> tuple[float, int, int]:
    """Seconds and largest resident MB of a `terraform test` of these runs, and the resources that the first one plans to create."""
    (directory / "tests").mkdir(exist_ok=True)
    (directory / "tests/bench.tftest.hcl").write_text(MOCKS + REQUIRED + runs)
    output = directory / "tests/output"
    with output.open("w") as out:
        began = time.monotonic()
        program = ["terraform", f"-chdir={directory}", "test", "-json", "-verbose", "-filter=tests/bench.tftest.hcl"]
        actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1)]
        process = os.posix_spawnp("terraform", program, os.environ, file_actions=actions)
        usage = os.wait4(process, 0)[2]
        seconds = time.monotonic() - began
    messages = [json.loads(line) for line in output.read_text().splitlines()]
    # Its own exit status says no more than that protected volumes refuse to be cleaned up.
    if any(m["test_run"].get("status", "pass") != "pass" for m in messages if m["type"] == "test_run"):
        sys.exit("\n".join(m["diagnostic"]["detail"] for m in messages if m["type"] == "diagnostic"))
    plans = [m["test_plan"] for m in messages if m["type"] == "test_plan"]
    return seconds, usage.ru_maxrss // 1024, len(plans[0]["resource_changes"]) if plans else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[20, 100, 200])
    options = parser.parse_args()
    os.environ |= {"TF_CLI_CONFIG_FILE": provider(), "CHECKPOINT_DISABLE": "1"}
    print(f"{'nodes':>6} {'resources':>10} {'first s':>9} {'again s':>9} {'memory MB':>10}")
    with tempfile.TemporaryDirectory(prefix="etl-plan-") as directory:
        environment = initialised(without_backend(Path(directory)) / "environments/prod")
        profile = environment / "terraform.tfvars"
        text = profile.read_text()
        for nodes in options.nodes:
            profile.write_text(text.replace("count    = 12", f"count    = {nodes - OTHERS}"))
            first, memory, resources = test(environment, PLAN)
            again, more, _ = test(environment, AGAIN)
            print(f"{nodes:>6} {resources:>10} {first:>9.1f} {again:>9.1f} {max(memory, more):>10}", flush=True)


if __name__ == "__main__":
    main()
