#!/usr/bin/python
"""Keep a bare git repository whose branch is a history of released trees."""

from __future__ import annotations

import os
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: git_bundle
short_description: Commit a directory as the next version of a DAG bundle
description:
  - Creates the bare repository when it is missing, with a first commit that holds an empty C(dags) directory.
  - Commits the tree of O(source) on top of the branch unless the branch holds that very tree already.
options:
  repository: {type: path, required: true, description: The bare repository.}
  source: {type: path, description: Directory whose whole content becomes the tree.}
  branch: {type: str, default: main, description: The branch that readers follow.}
  message: {type: str, default: Release, description: Message of the commit.}
"""
RETURN = """
commit: {type: str, returned: always, description: "The branch's commit after the module ran."}
"""

IDENTITY = {
    "GIT_AUTHOR_NAME": "ETL-Cloud",
    "GIT_AUTHOR_EMAIL": "etl@localhost",
    "GIT_COMMITTER_NAME": "ETL-Cloud",
    "GIT_COMMITTER_EMAIL": "etl@localhost",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
}


class Bundle:
    """A branch of a bare repository, written with git's plumbing only (no work tree, no gc)."""

    def __init__(self, repository: str, branch: str = "main"):
        self.repository, self.branch = repository, branch

    def git(self, *arguments: str, stdin: str = "", **environment: str) -> str:
        """Run git on the repository and return its output; raise RuntimeError with git's message."""
        command = ["git", "--git-dir", self.repository, *arguments]
        env = {**os.environ, **IDENTITY, **environment}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=env)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def head(self) -> str | None:
        """The branch's commit, None when there is no repository or no commit yet."""
        if not os.path.isdir(os.path.join(self.repository, "objects")):
            return None
        return self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{self.branch}") or None

    def create(self) -> str:
        """Make the repository and its first, empty version; return that commit."""
        subprocess.run(
            ["git", "init", "--quiet", "--bare", f"--initial-branch={self.branch}", self.repository],
            check=True,
            env={**os.environ, **IDENTITY},
        )
        blob = self.git("hash-object", "-w", "--stdin")
        dags = self.git("mktree", stdin=f"100644 blob {blob}\t.airflowignore\n")
        return self._commit(self.git("mktree", stdin=f"040000 tree {dags}\tdags\n"), "No release yet", None)

    def tree(self, source: str) -> str:
        """Store the content of the directory `source` and return its tree."""
        with tempfile.TemporaryDirectory() as scratch:
            index = os.path.join(scratch, "index")
            self.git("--work-tree", source, "add", "--all", "--force", ".", GIT_INDEX_FILE=index)
            return self.git("write-tree", GIT_INDEX_FILE=index)

    def publish(self, tree: str, message: str) -> str:
        """Commit `tree` on top of the branch; return the commit."""
        return self._commit(tree, message, self.head())

    def _commit(self, tree: str, message: str, parent: str | None) -> str:
        parents = ["-p", parent] if parent else []
        commit = self.git("commit-tree", tree, "-m", message, *parents)
        self.git("update-ref", f"refs/heads/{self.branch}", commit, parent or "0" * 40)
        return commit


def run(module: AnsibleModule) -> dict:
    """Bring the repository to the asked state; return the module's result."""
    parameters = module.params
    bundle = Bundle(parameters["repository"], parameters["branch"])
    head, changed = bundle.head(), False
    os.umask(0o022)
    if head is None:
        if module.check_mode:
            return {"changed": True, "commit": ""}
        head, changed = bundle.create(), True
    source = parameters["source"]
    if source is None:
        return {"changed": changed, "commit": head}
    if module.check_mode and not os.path.isdir(source):
        return {"changed": True, "commit": head}
    os.chdir(source)
    tree = bundle.tree(source)
    if tree == bundle.git("rev-parse", f"{head}^{{tree}}"):
        return {"changed": changed, "commit": head}
    if module.check_mode:
        return {"changed": True, "commit": head}
    return {"changed": True, "commit": bundle.publish(tree, parameters["message"])}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "path", "required": True},
            "source": {"type": "path"},
            "branch": {"type": "str", "default": "main"},
            "message": {"type": "str", "default": "Release"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
