"""The project's error tree.

    FintrecError
    ├── MalformedEvent      a record on the wire that is refused at the border
    ├── StateCorrupt        a packed user state that cannot be read
    ├── StoreUnavailable    the online store is down, late or answers garbage
    └── ConfigurationError  settings, manifests or artefacts that do not fit together

`ValueError` stays for a caller's own mistake, `assert` for invariants.
"""


class FintrecError(Exception):
    """Root of every error that the world, not the caller, caused."""


class MalformedEvent(FintrecError):
    """A record is refused at the border; the message says what was got, expected and where."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StateCorrupt(FintrecError):
    """A packed user state has the wrong magic, layout, registry or length."""


class StoreUnavailable(FintrecError):
    """The online store gave no usable answer within its deadline; a write may have happened."""


class ConfigurationError(FintrecError):
    """Settings, manifests or model artefacts contradict each other or are incomplete."""
