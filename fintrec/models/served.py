"""What Triton serves: both encoders in one module, both heads in one module.

A call costs the server about a millisecond whatever its rows, so an ingest batch is one `Encode`
call and a scoring batch is one `Head` call. `Pctr` and `Pcvr` are served whole beside them.

On one CPU thread, as they are served, a row's output has the same bytes whatever else is in the
batch, for batches of 4 and more (1 to 3 rows, or more threads, take other matrix kernels). Where
torch multiplies with MKL on an Intel CPU that needs MKL_CBWR=AUTO,STRICT in the environment of the
process, or batches below 16 rows differ in the last bit; it costs nothing measurable.

Shapes: B batch, T history, C token columns, F dynamic features, X context, R request columns,
W width of a state, K items
"""

import torch
from torch import Tensor, nn

from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr


class Encode(nn.Module):
    """History to the stored state h_ctr | h_cvr."""

    def __init__(self, pctr: Pctr, pcvr: Pcvr) -> None:
        super().__init__()
        self.click_decoder = pctr.encoder
        self.conversion_encoder = pcvr.encoder

    def forward(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """State (B, W) float16, of both models."""
        click_state = self.click_decoder(tokens_BTC, times_BT, dynamic_BTF)
        conversion_state = self.conversion_encoder(tokens_BTC, times_BT, dynamic_BTF)
        return torch.cat((click_state, conversion_state), dim=1)


class Head(nn.Module):
    """Stored state, context and request to the logits of both models."""

    def __init__(self, pctr: Pctr, pcvr: Pcvr) -> None:
        super().__init__()
        self.click_width = pctr.item_head.state_width
        self.state_width = self.click_width + pcvr.item_head.state_width
        self.click_head = pctr.item_head
        self.conversion_head = pcvr.item_head

    def forward(
        self, state_BW: Tensor, context_BX: Tensor, request_BR: Tensor
    ) -> tuple[Tensor, Tensor]:
        """pCTR and pCVR logits, each (B, K) float32."""
        return (
            self.click_head(state_BW[:, : self.click_width], context_BX, request_BR),
            self.conversion_head(state_BW[:, self.click_width :], context_BX, request_BR),
        )
