"""The lake app as a module: `faust -A streams.lake_worker worker`."""

from streams.apps import lake_app, prepare_process
from streams.settings import load_settings

settings = load_settings()
prepare_process(settings)
app = lake_app(settings)
