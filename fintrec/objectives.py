"""The losses, each a module over a batch: the seam at which training is distributed.

An objective's forward gives one row a part of the loss, (sum, count); the loss is the sum of the
parts' means (`mean_loss`). Sums and counts can be added over processes, means cannot, so a batch
shared by several processes has the loss and the gradient of the whole one.
`DistributedDataParallel(ClickObjective(model))` trains like `ClickObjective(model)`: everything
that needs a gradient happens inside one `forward`.

Shapes: as in `fintrec/batches.py`; P parts of a loss, D width
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fintrec.batches import ClickBatch, ConversionBatch, ImpressionBatch
from fintrec.exposure import ExposurePrior
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr


def mean_loss(sums_P2: Tensor, counts_P: Tensor | None = None) -> Tensor:
    """Scalar: the means of the parts, added; a part with nothing in it adds nothing.

    `counts_P` are those of all processes, where the sums are of one.
    """
    counts_P = sums_P2[:, 1] if counts_P is None else counts_P
    return (sums_P2[:, 0] / counts_P.clamp(min=1.0)).sum()


def _step_logits(model: Pctr, batch: ClickBatch | ImpressionBatch) -> Tensor:
    """(L, K): the head on the hidden state of each labelled step."""
    state_LW = model.encode_at(
        batch.tokens_WTC, batch.times_WT, batch.dynamic_WTF, batch.window_L, batch.from_end_L
    )
    return model.head(state_LW, batch.context_LX, batch.request_LR)


class ClickObjective(nn.Module):
    """Next-item loss over clicked steps only (FinTRec eq. 2); counts the batch's steps.

    `prior` is added to the logits inside the loss (`fintrec/exposure.py`).
    """

    place_P4: Tensor
    log_shares_PK: Tensor

    def __init__(self, model: Pctr, prior: ExposurePrior) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("place_P4", prior.place_P4, persistent=False)
        self.register_buffer("log_shares_PK", prior.log_shares_PK, persistent=False)

    def logits(self, batch: ClickBatch) -> Tensor:
        """(L, K): of each labelled step, without the prior."""
        return _step_logits(self.model, batch)

    def forward(self, batch: ClickBatch) -> Tensor:
        """(1, 2): sum over the labelled steps, and how many there are."""
        return self.sums(self.logits(batch).to(torch.float32), batch.request_LR, batch.target_L)

    def sums(self, logits_LK: Tensor, request_LR: Tensor, target_L: Tensor) -> Tensor:
        """(1, 2): the same of logits from wherever."""
        shares_LK = ExposurePrior(self.place_P4, self.log_shares_PK).rows(request_LR)
        total = functional.cross_entropy(
            logits_LK + shares_LK.to(logits_LK), target_L, reduction="sum"
        )
        return torch.stack((total, total.new_tensor(float(len(target_L)))))[None]


class ImpressionObjective(nn.Module):
    """Binary cross entropy of every shown item, clicked or not; counts the items shown.

    Not in the paper: eq. 2 learns from clicked steps alone, and its softmax cannot say that one user
    is likelier to click on anything than another.
    """

    def __init__(self, model: Pctr) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ImpressionBatch) -> Tensor:
        """(1, 2): sum over the items shown at the labelled steps, and how many there are."""
        logits_LK = _step_logits(self.model, batch).to(torch.float32)
        return self.sums(logits_LK, batch.shown_LS, batch.clicked_LS)

    @staticmethod
    def sums(logits_LK: Tensor, shown_LS: Tensor, clicked_LS: Tensor) -> Tensor:
        """(1, 2): the same of logits from wherever."""
        logits_LS = logits_LK.gather(1, shown_LS.clamp(min=0))
        loss_LS = functional.binary_cross_entropy_with_logits(
            logits_LS, clicked_LS.to(logits_LS), reduction="none"
        )
        is_shown_LS = (shown_LS >= 0).to(loss_LS)
        return torch.stack(((loss_LS * is_shown_LS).sum(), is_shown_LS.sum()))[None]


class ConversionObjective(nn.Module):
    """Binary cross entropy of every item (FinTRec section 3.2); counts the labels that are known."""

    def __init__(self, model: Pcvr) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ConversionBatch) -> Tensor:
        """(1, 2): weighted sum over the known labels, and how many there are."""
        state_BD = self.model.encoder.hidden(batch.tokens_BTC, batch.times_BT, batch.dynamic_BTF)
        logits_BK = self.model.head(state_BD, batch.context_BX, batch.request_BR)
        return self.sums(
            logits_BK.to(torch.float32), batch.target_BK, batch.known_BK, batch.weight_B
        )

    @staticmethod
    def sums(logits_BK: Tensor, target_BK: Tensor, known_BK: Tensor, weight_B: Tensor) -> Tensor:
        """(1, 2): the same of logits from wherever."""
        loss_BK = functional.binary_cross_entropy_with_logits(
            logits_BK, target_BK, reduction="none"
        )
        total = (loss_BK * known_BK * weight_B[:, None]).sum()
        return torch.stack((total, known_BK.sum()))[None]
