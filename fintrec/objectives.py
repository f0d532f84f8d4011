"""The two losses, each a module over a batch: the seam at which training is distributed.

`DistributedDataParallel(ClickObjective(model))` trains like `ClickObjective(model)`: everything
that needs a gradient happens inside one `forward`.

Shapes: as in `fintrec/batches.py`; D width
"""

from torch import Tensor, nn
from torch.nn import functional

from fintrec.batches import ClickBatch, ConversionBatch
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr


class ClickObjective(nn.Module):
    """Next-item loss over clicked steps only (FinTRec eq. 2), mean over the batch's steps.

    `prior_K` is added to the logits inside the loss: P(clicked next) is P(shown) P(click | shown)
    up to a constant, so with log shares of exposure the model is left with the second factor.
    """

    prior_K: Tensor

    def __init__(self, model: Pctr, prior_K: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("prior_K", prior_K)

    def logits(self, batch: ClickBatch) -> Tensor:
        """(L, K): the head on the hidden state of each labelled step, without the prior."""
        hidden_WTD = self.model.encode_all(batch.tokens_WTC, batch.times_WT, batch.dynamic_WTF)
        state_LD = hidden_WTD[batch.window_L, hidden_WTD.shape[1] - batch.from_end_L]
        return self.model.head(state_LD, batch.context_LX, batch.request_LR)

    def forward(self, batch: ClickBatch) -> Tensor:
        """Scalar loss."""
        return functional.cross_entropy(self.logits(batch) + self.prior_K, batch.target_L)


class ConversionObjective(nn.Module):
    """Binary cross entropy of every item, mean over the labels that are known."""

    def __init__(self, model: Pcvr) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ConversionBatch) -> Tensor:
        """Scalar loss."""
        state_BD = self.model.encoder.hidden(batch.tokens_BTC, batch.times_BT, batch.dynamic_BTF)
        logits_BK = self.model.head(state_BD, batch.context_BX, batch.request_BR)
        loss_BK = functional.binary_cross_entropy_with_logits(
            logits_BK, batch.target_BK, reduction="none"
        )
        return (loss_BK * batch.known_BK).sum() / batch.known_BK.sum().clamp(min=1.0)
