"""The model: whether a flight will leave late, learnt from a training set, scored from vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.cli.demo.features import LATE_MINUTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scored", "learn_and_score"]

_TRAIN_SHARE = 0.75
_ROUNDS = 60


class Scored:
    """How well the model ranks the later flights, and how many predictions differ by source."""

    def __init__(self, auc: float, predictions: int, differences: int) -> None:
        self.auc = auc
        self.predictions = predictions
        self.differences = differences


def learn_and_score(training: pl.DataFrame, fetched: pl.DataFrame, seed: int) -> Scored:
    """Learn from the earlier part of a training set and score the later part twice.

    `training` is in order of time, with `dep_delay`; `fetched` has the same rows' features as they
    were served. Cancelled flights have no delay, so they are neither learnt from nor scored.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    flown = training["dep_delay"].is_not_null()
    label = (training.filter(flown)["dep_delay"] > LATE_MINUTES).to_numpy()
    known = _matrix(training.filter(flown).select(fetched.columns))
    served = _matrix(fetched.filter(flown))
    cut = int(len(label) * _TRAIN_SHARE)
    model = HistGradientBoostingClassifier(
        max_iter=_ROUNDS, early_stopping=False, random_state=seed
    )
    model.fit(known[:cut], label[:cut])
    expected = model.predict_proba(known[cut:])[:, 1]
    found = model.predict_proba(served[cut:])[:, 1]
    both = 0 < int(label[cut:].sum()) < len(label) - cut
    auc = float(roc_auc_score(label[cut:], found)) if both else float("nan")
    return Scored(auc, len(found), int(np.count_nonzero(found != expected)))


def _matrix(features: pl.DataFrame) -> NDArray[np.float64]:
    """Return (rows, features), NaN for null."""
    return features.cast(pl.Float64).to_numpy()
