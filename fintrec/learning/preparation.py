"""What a model knows before its first step: standardisation, categories and base rates.

So the first step already knows what is rare, and a short training stays sane.
"""

from typing import Final

import torch

from features.encoding import encode_histories
from features.history import as_of
from fintrec.datasets import TrainingSet
from fintrec.learning.base_rates import click_logits, conversion_logits, impression_logits
from fintrec.learning.tasks import sampled
from fintrec.models.embedding import HistoryEmbedding
from fintrec.models.head import ItemHead
from fintrec.models.item_counts import ItemCounts
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.popularity import Popularity

_FIT_PAGES: Final = 2048  # pages whose histories the standardisation is fitted on


@torch.no_grad()
def prepare(pctr: Pctr, pcvr: Pcvr, data: TrainingSet, popularity: Popularity, seed: int) -> None:
    """Fit the standardisation, tell the heads the items' categories, and start the output biases
    at the base rates.
    """
    tell_categories(pctr, pcvr, data)
    pages = sampled(data.train, _FIT_PAGES, seed)
    ends = zip(data.train.user[pages].tolist(), data.train.end[pages].tolist(), strict=True)
    arrays = encode_histories([as_of(data.logs[user], end) for user, end in ends]).arrays
    dynamic = torch.from_numpy(arrays.dynamic_BTF[arrays.times_BT > 0]).float()
    static = torch.from_numpy(data.train.static[pages]).float()
    for model in (pctr, pcvr):
        embedding, item_head = model.encoder.embedding, model.item_head
        assert isinstance(embedding, HistoryEmbedding)
        assert isinstance(item_head, ItemHead)
        for scale, sample in ((embedding.dynamic_scale, dynamic), (item_head.static_scale, static)):
            if len(sample):
                scale.fit(sample.mean(0), sample.std(0, correction=0))
    clicks = impression_logits if pctr.link == "sigmoid" else click_logits
    pctr.item_head.output.bias.copy_(clicks(popularity))
    pcvr.item_head.output.bias.copy_(conversion_logits(popularity))


def tell_categories(pctr: Pctr, pcvr: Pcvr, data: TrainingSet) -> None:
    """Tell both models the categories of their items, where the data set has any."""
    if not data.categories:
        return
    for model in (pctr, pcvr):
        item_head, counts = model.item_head, model.encoder.item_counts
        item_head.set_categories(data.categories)
        if isinstance(counts, ItemCounts):
            counts.set_categories(item_head.category_K)
