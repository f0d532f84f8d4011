"""Baselines of the conversion model, all judged by one harness (FinTRec table 3)."""
