"""`python -m rollback_notifier`, from the directory where the role puts the package."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
