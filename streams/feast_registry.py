"""Where Feast's registry file lies: with the batch tables, outside the checkout's tracked files."""

import os
from pathlib import Path

from feast.infra.registry.file import FileRegistryStore
from feast.repo_config import RegistryConfig


class FintrecRegistryStore(FileRegistryStore):
    """Feast's registry file under `FINTREC_DIR` when that is set, else where the path says."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        directory = os.environ.get("FINTREC_DIR")
        if directory:
            path = Path(directory).resolve() / "feast" / "registry.db"
            registry_config = registry_config.model_copy(update={"path": str(path)})
        super().__init__(registry_config, repo_path)
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
