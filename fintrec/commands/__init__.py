"""Verbs of the command `fintrec` that need no broker and no store."""
