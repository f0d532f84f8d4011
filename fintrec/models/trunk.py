"""Both models of a version, apart or on one trunk (the paper's limit (a): separate code bases).

With `shared_trunk` the two encoders hold the *same* modules for all that does not depend on the
objective: the tables of a token's fields, the fusion of F_d, and every block but the last. What
stays apart is what the objectives differ in: the mask (by timestamp, or everything), order and time
(only the encoder may look at the time to the newest interaction), the last block, the final norm,
the pooling and the head.

So a model still computes its own hidden state from the history alone, and everything that serves,
stores or explains a pair of models takes a shared pair as it is. Sharing saves weights and lets
the many pages teach what the few clicks need; it saves no arithmetic, since each mask wants its own
pass.
"""

from typing import Final

from features.vocabulary import Vocabulary
from fintrec.models.config import ModelConfig
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr

SHARED_FIELDS: Final = (
    "item",
    "product",
    "page",
    "placement",
    "layout",
    "action",
    "channel",
    "device",
    "position",
    "dynamic_scale",
    "dynamic",
)


def build_models(vocabulary: Vocabulary, config: ModelConfig) -> tuple[Pctr, Pcvr]:
    """Untrained pCTR and pCVR of a configuration."""
    pctr, pcvr = Pctr(vocabulary, config), Pcvr(vocabulary, config)
    if config.shared_trunk:
        share_trunk(pctr, pcvr)
    return pctr, pcvr


def share_trunk(pctr: Pctr, pcvr: Pcvr) -> None:
    """Let pCVR use pCTR's trunk; its own is dropped."""
    for name in SHARED_FIELDS:
        setattr(pcvr.encoder.embedding, name, getattr(pctr.encoder.embedding, name))
    for place in range(pctr.encoder.blocks.num_layers - 1):
        pcvr.encoder.blocks.layers[place] = pctr.encoder.blocks.layers[place]
