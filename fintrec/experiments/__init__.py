"""Experiments that the documents quote: FinTRec table 3 on the simulated bank, and our ablations."""
