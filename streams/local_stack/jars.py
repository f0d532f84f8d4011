"""The broker's jars: locked in `jgo.lock.toml` by SHA-256, fetched once by jgo, no Java needed.

`jgo.toml` names what we want, the lock what that means exactly. Neither holds an address: jgo's
own settings say where artifacts come from. `python -m streams.local_stack.jars` makes the lock.
"""

import hashlib
import os
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from features.errors import FintrecError

SPEC_NAME, LOCK_NAME = "jgo.toml", "jgo.lock.toml"


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked artifact."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def coordinate(self) -> str:
        """`group:artifact:version`."""
        return f"{self.group}:{self.artifact}:{self.version}"

    def path(self, cache: Path) -> Path:
        """Where the jar lies in a cache that has a Maven repository's layout."""
        folder = cache.joinpath(*self.group.split("."), self.artifact, self.version)
        return folder / f"{self.artifact}-{self.version}.jar"


def default_cache() -> Path:
    """The user's cache folder for jars; it may be deleted at any time."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fintrec" / "jars"


def lock_path() -> Path:
    """`jgo.lock.toml`: at the project's root, or beside this module in an installed wheel."""
    here = Path(__file__).resolve().parent
    for folder in (here, here.parents[1]):
        if (folder / LOCK_NAME).exists():
            return folder / LOCK_NAME
    raise FintrecError(f"{LOCK_NAME} is neither in {here} nor in {here.parents[1]}")


def read_lock(path: Path) -> list[Jar]:
    """The locked jars, in class path order.

    Raises:
        FintrecError: an entry has no hash, so nothing could be checked against it.
    """
    jars = []
    for entry in tomllib.loads(path.read_text())["dependencies"]:
        if entry.get("packaging", "jar") != "jar" or "classifier" in entry or "sha256" not in entry:
            raise FintrecError(f"{path}: expected a plain jar with its sha256, got {entry}")
        jars.append(Jar(entry["groupId"], entry["artifactId"], entry["version"], entry["sha256"]))
    return jars


def missing_jars(jars: list[Jar], cache: Path) -> list[Jar]:
    """The jars that the cache lacks."""
    return [jar for jar in jars if not jar.path(cache).exists()]


def fetch_jars(
    jars: list[Jar], cache: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Path]:
    """Paths of all jars, those that are missing fetched first and every one checked.

    `progress` hears how many of the missing ones are there.

    Raises:
        FintrecError: a jar could not be fetched, or its bytes are not the locked ones.
    """
    missing = missing_jars(jars, cache)
    if missing:
        _download(missing, cache, progress)
    for jar in jars:
        _check(jar, cache)
    return [jar.path(cache) for jar in jars]


def _download(missing: list[Jar], cache: Path, progress: Callable[[int, int], None]) -> None:
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    context = MavenContext(
        repo_cache=cache, remote_repos=GlobalSettings.load().repositories or None
    )

    def fetch(jar: Jar) -> None:
        component = context.project(jar.group, jar.artifact).at_version(jar.version)
        try:
            component.artifact().resolve()
        except (RuntimeError, OSError) as exc:
            raise FintrecError(f"{jar.coordinate} could not be fetched: {exc}") from exc

    progress(0, len(missing))
    with ThreadPoolExecutor(8) as pool:
        for done, _ in enumerate(pool.map(fetch, missing), start=1):
            progress(done, len(missing))


def _check(jar: Jar, cache: Path) -> None:
    path = jar.path(cache)
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != jar.sha256:
        set_aside = path.rename(path.with_name(path.name + ".bad"))
        raise FintrecError(
            f"{path}: SHA-256 is {got}, the lock says {jar.sha256}; it was set aside as "
            f"{set_aside.name}, so the next start fetches it anew"
        )


def write_lock(spec_path: Path, cache: Path) -> int:
    """Resolve `jgo.toml` anew and write the lock beside it; the number of jars."""
    from jgo.env import EnvironmentBuilder, EnvironmentSpec
    from jgo.maven import MavenContext

    builder = EnvironmentBuilder(context=MavenContext(repo_cache=cache), cache_dir=cache / ".jgo")
    lock = builder.resolve_lockfile(EnvironmentSpec.load(spec_path))
    lock.save(spec_path.with_name(LOCK_NAME))
    return len(lock.dependencies)


if __name__ == "__main__":
    write_lock(Path(SPEC_NAME), default_cache())
