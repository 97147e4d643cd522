"""Prompts in, activations out."""
