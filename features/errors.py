"""The project's error tree.

    FintrecError
    ├── MalformedEvent      a record on the wire that is refused at the border
    ├── StateCorrupt        a packed user state that cannot be read
    ├── ConfigurationError  settings, manifests or artefacts that do not fit together
    └── Unavailable         a server did not answer in its time; try again or degrade
        ├── StoreUnavailable    the online store
        └── ModelUnavailable    Triton, or one of its models

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


class ConfigurationError(FintrecError):
    """Settings, manifests or model artefacts contradict each other or are incomplete."""


class Unavailable(FintrecError):
    """A server is down, late or answers nonsense; nothing is known of the outcome."""


class StoreUnavailable(Unavailable):
    """The online store did not answer a call in its time."""


class ModelUnavailable(Unavailable):
    """Triton did not answer a call in its time, or not in the expected shape."""
