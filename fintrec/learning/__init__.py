"""The training engine: the loop, what it trains, and what it keeps on disk."""
