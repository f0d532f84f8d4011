"""Data that nobody here wrote, judged by published protocols: events, sessions, item sequences."""
