#!/usr/bin/python
"""Documentation of the action plugin announce; nothing runs on hosts."""

DOCUMENTATION = """
module: announce
short_description: Show text to the person who runs the playbook, as it is
options:
  text: {type: str, required: true, description: What to show.}
"""
