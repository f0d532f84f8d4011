"""Exit code 0 when the worker of this container answers on its metrics port.

A worker that is alive but makes no progress ends itself (FINTREC_LIVENESS_S), so an answer is
enough here.
"""

import os
import sys
import urllib.error
import urllib.request


def main() -> int:
    """0 when the metrics are served, 1 when not."""
    port = os.environ.get("FINTREC_METRICS_PORT", "0")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, OSError, ValueError) as silent:
        sys.stderr.write(f"no metrics on port {port}: {silent}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
