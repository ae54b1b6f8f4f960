"""The way back for data: runs (undo), objects (rewind)."""
