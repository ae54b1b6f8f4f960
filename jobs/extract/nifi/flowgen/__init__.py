"""Writes NiFi flow definitions from pipeline declarations: `python -m jobs.extract.nifi.flowgen`."""
