"""The way back: releases, data of runs (undo), objects (rewind)."""
