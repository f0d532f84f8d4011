"""The root of the project's own errors: what the world did wrong, said in one line.

A caller's mistake is a `ValueError`; a broken invariant an `AssertionError`.
"""


class FintrecError(Exception):
    """Something outside the code is missing, late or broken; the message says what and where."""
