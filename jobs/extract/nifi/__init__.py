"""NiFi flow definitions and their generator."""
