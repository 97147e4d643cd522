"""Activations in, decisions out."""
