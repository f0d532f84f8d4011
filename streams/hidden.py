"""Hidden states and logits of a batch of requests: head calls by model version, bounded repair.

A state whose hidden states have seen its whole history under the active model gives what a full
recompute would give. The others: up to `repair_rows` a batch are encoded again, the rest are scored
on the hidden states they have, flagged, or, without any usable ones, on their static context alone.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from features.encoding import HistoryArrays, encode_context, encode_histories, encode_request
from features.errors import ModelUnavailable
from fintrec.slates import FRESH, STALE, STATIC
from streams.metrics import REPAIRED
from streams.model_versions import ModelVersions, ServedModel
from streams.ranker import Row

logger = logging.getLogger(__name__)
BEHIND = "state_behind"
OLDER_MODEL = "older_model"
REPAIR_FAILED = "repair_failed"
NO_MODEL = "no_model"
NO_STATE = "no_state"
NOT_FINITE = "logits_not_finite"


class Models(Protocol):
    """What scoring asks of Triton (`streams/triton.py`)."""

    def repair(self, arrays: HistoryArrays, version: int) -> npt.NDArray[np.float16]:
        """Hidden states, (B, width)."""

    def head(
        self,
        hidden_BW: npt.NDArray[np.float16],
        context_BX: npt.NDArray[np.float16],
        request_BR: npt.NDArray[np.int64],
        version: int,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits of both models, each (B, K)."""


class HiddenStates:
    """Scores rows that have their states."""

    def __init__(self, triton: Models, models: ModelVersions, repair_rows: int) -> None:
        self._triton = triton
        self._models = models
        self._repair_rows = repair_rows

    def score(self, rows: Sequence[Row]) -> list[Row]:
        """Give every row its tier and logits; returns the rows whose hidden states are new.

        Raises ModelUnavailable when no `head` call came back; rows scored before it keep theirs.
        """
        active = self._models.active
        if active is None:
            raise ModelUnavailable("triton: no model version is ready")
        repaired = self._repair(rows, active)
        groups: dict[int, list[Row]] = {}
        for row in rows:
            model = self._choose(row, active)
            groups.setdefault(model.version, []).append(row)
            row.model = model
        for members in groups.values():
            try:
                self._head(members)
            except ModelUnavailable as gone:
                if members[0].model is active:
                    raise
                # Unloaded since the last poll, as when two promotions follow each other closely.
                logger.info("older model not used reason=%s", gone)
                for row in members:
                    row.model, row.tier = active, STATIC
                    row.flags[:] = [f for f in row.flags if f not in (BEHIND, OLDER_MODEL)]
                    row.flags.append(NO_STATE)
                self._head(members)
        return repaired

    def _repair(self, rows: Sequence[Row], active: ServedModel) -> list[Row]:
        """Encode a bounded number of states that are behind or of another model, newest first."""
        due = [
            row
            for row in rows
            if row.state.version
            and (row.state.model != active.version or row.state.state_version != row.state.version)
        ]
        due = sorted(due, key=lambda row: -row.state.last_event_ms)[: self._repair_rows]
        if not due:
            return []
        arrays = encode_histories([row.state.history for row in due]).arrays
        try:
            hidden = self._triton.repair(arrays, active.version)
            expected = (len(due), active.manifest.state_width)
            if hidden.shape != expected or not np.isfinite(hidden).all():
                raise ModelUnavailable(
                    f"triton: encode {active.version} gave {hidden.shape}, expected {expected}, "
                    "finite"
                )
        except ModelUnavailable:
            # The head call decides whether Triton is down; a late repair alone costs freshness.
            for row in due:
                row.flags.append(REPAIR_FAILED)
            return []
        for row, vector in zip(due, hidden, strict=True):
            row.state = row.state.with_hidden(vector, active.version)
        REPAIRED.inc(len(due))
        return due

    def _choose(self, row: Row, active: ServedModel) -> ServedModel:
        """The model that a row's hidden states belong to, and the row's tier."""
        state = row.state
        model = self._models.served.get(state.model)
        usable = model is not None and len(state.hidden) == model.manifest.state_width
        if not usable or model is None:
            row.tier = STATIC
            row.flags.append(NO_STATE)
            return active
        row.tier = FRESH
        if state.state_version != state.version:
            row.tier = STALE
            row.flags.append(BEHIND)
        if model.version != active.version:
            row.tier = STALE
            row.flags.append(OLDER_MODEL)
        return model

    def _head(self, rows: list[Row]) -> None:
        model = rows[0].model
        assert model is not None
        hidden = np.zeros((len(rows), model.manifest.state_width), np.float16)
        for place, row in enumerate(rows):
            if row.tier != STATIC:
                hidden[place] = row.state.hidden
        fm = [row.state.fm if len(row.state.fm) else None for row in rows]
        context = encode_context(np.stack([row.static for row in rows]), fm)
        request = np.array(
            [
                encode_request(row.request, row.state.state_event_ms if row.tier != STATIC else 0)
                for row in rows
            ],
            np.int64,
        )
        pctr, pcvr = self._triton.head(hidden, context, request, model.version)
        expected = (len(rows), len(model.manifest.items))
        if pctr.shape != expected or pcvr.shape != expected:
            raise ModelUnavailable(
                f"triton: head {model.version} gave {pctr.shape} and {pcvr.shape}, "
                f"expected {expected}"
            )
        logits = np.concatenate((pctr, pcvr), axis=1)
        finite = np.logical_and.reduce(np.isfinite(logits), axis=1)
        for place, row in enumerate(rows):
            if not finite[place]:
                # One user's broken state is no reason to answer the whole batch without a model.
                row.flags.append(NOT_FINITE)
                continue
            row.logits = logits[place]
            row.inputs = (hidden[place], context[place], request[place])
            row.batch_size = len(rows)
