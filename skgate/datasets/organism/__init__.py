"""The model organism: its languages, its texts and the recipe that trains it."""
