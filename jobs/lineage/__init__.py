"""Where published rows come from and what stands on them: OpenLineage events in the ledger."""
