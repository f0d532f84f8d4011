"""The ingest app as a module: `faust -A streams.ingest_worker worker`."""

from streams.apps import ingest_app, prepare_process
from streams.settings import load_settings

settings = load_settings()
prepare_process(settings)
app = ingest_app(settings)
