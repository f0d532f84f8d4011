"""Measurements of the running system, with their method; `README.md` has the commands."""
