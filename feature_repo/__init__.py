"""Feast definitions, derived from the feature registry."""
