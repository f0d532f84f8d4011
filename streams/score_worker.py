"""The scoring app as a module: `faust -A streams.score_worker worker`."""

from streams.apps import prepare_process, score_app
from streams.settings import load_settings

settings = load_settings()
prepare_process(settings)
app = score_app(settings)
