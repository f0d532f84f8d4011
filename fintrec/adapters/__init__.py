"""Real data through the same door: adapters that write other people's data as a LOG_DIR.

`ADAPTERS` names each as "module:function"; the function reads a small folder of source files,
writes a log of `docs/data_layout.md` and returns what it counted. `docs/bring_your_data.md` says
how to write one.
"""

from collections.abc import Mapping
from typing import Final

ADAPTERS: Final[Mapping[str, str]] = {
    "complete_journey": "fintrec.adapters.complete_journey:import_log",
    "bpic2012": "fintrec.adapters.bpic2012:import_log",
}
