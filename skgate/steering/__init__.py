"""Decisions acted on while a model generates."""
