"""Extraction: NiFi's flows and how a run asks for raw objects."""
