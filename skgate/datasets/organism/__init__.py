"""The model organism: its languages, its texts and its training."""
