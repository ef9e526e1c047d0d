"""A reader with known answers, and a server and a client around it."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl

from headwater.errors import NotFoundError, did_you_mean
from headwater.flow.answer import Answer, ServiceInfo, Status

CLOCK_US = 1_385_000_000_000_000
AT = datetime(2013, 6, 1, 12, 0, 0, 1, tzinfo=UTC)
NAIVE = datetime(2013, 1, 1)  # noqa: DTZ001 - what is to be refused
AT_US = 1_370_088_000_000_001


class FakeReader:
    """Answers from a dictionary: mean delay per plane, and what depends on the request."""

    def __init__(self):
        self.means = {"N1": 10.0, "N2": -0.0, "N3": None}
        self.info = ServiceInfo(
            name="delay_model",
            revision="r1",
            join_keys={"tailnum": pl.String(), "origin": pl.String(), "dest": pl.String()},
            request_inputs={"dep_delay": pl.Float64(), "booked": pl.Datetime("us", "UTC")},
            entities={"plane": ("tailnum",), "route": ("origin", "dest")},
            features={
                "mean_delay_24h": pl.Float64(),
                "n_24h": pl.Int64(),
                "vs_day": pl.Float64(),
                "lead": pl.Duration("us"),
                "key": pl.String(),
                "small": pl.Float32(),
                "late": pl.Boolean(),
            },
        )
        self.one = ServiceInfo(
            "one",
            "s1",
            {"tailnum": pl.String()},
            {},
            {"plane": ("tailnum",)},
            {"n_24h": pl.Int64()},
        )
        self.reads = []
        self.descriptions = []
        self.failure = None
        self.hold = None
        self.entered = threading.Event()

    def services(self):
        return ["delay_model", "one"]

    def describe(self, service):
        self.descriptions.append(service)
        found = {"delay_model": self.info, "one": self.one}.get(service)
        if found is None:
            hint = did_you_mean(service, self.services())
            raise NotFoundError(f'no service "{service}".{hint}')
        return found

    def describe_features(self, features):
        known = {f"plane_delays.{name}": name for name in self.info.features}
        for name in features:
            if name not in known:
                raise NotFoundError(f'no feature "{name}".{did_you_mean(name, known)}')
        kept = {known[name]: self.info.features[known[name]] for name in features}
        return replace(self.info, name="", revision="f1", features=kept)

    def read(self, info, inputs, at_us):
        self.entered.set()
        if self.hold is not None:
            self.hold.wait(30)
        if self.failure is not None:
            raise self.failure
        self.reads.append((info, inputs, at_us))
        values, statuses = self.vectors(info, inputs)
        t_us = CLOCK_US if at_us is None else at_us
        return Answer(values, statuses, t_us, at_us is not None, {11: 7, 3: 2**40}, info.revision)

    def vectors(self, info, inputs):
        tailnum = inputs["tailnum"]
        mean = pl.Series([self.means.get(one) for one in tailnum], dtype=pl.Float64)
        known = np.array([one in self.means for one in tailnum], dtype=bool)
        empty = pl.Series([None] * len(inputs), dtype=pl.Float64)
        delay = inputs.to_dict().get("dep_delay", empty)
        booked = inputs.to_dict().get("booked", empty)
        every = {
            "mean_delay_24h": mean,
            "n_24h": pl.Series(np.arange(len(inputs))),
            "vs_day": delay - mean,
            "lead": booked.cast(pl.Int64).cast(pl.Duration("us")),
            "key": tailnum,
            "small": (mean + 0.1).cast(pl.Float32),
            "late": mean > 5,
        }
        values = pl.DataFrame({name: every[name] for name in info.features})
        statuses = np.where(known, np.uint8(Status.PRESENT), np.uint8(Status.NOT_FOUND))
        statuses = np.tile(statuses.astype(np.uint8), (values.width, 1))
        for row, series in zip(statuses, values.iter_columns(), strict=True):
            row[series.is_null().to_numpy() & known] = Status.NULL
        return values, statuses


def request_of(planes=("N1",), **more):
    rows = len(planes)
    return {
        "plane": list(planes),
        "origin": ["JFK"] * rows,
        "dest": ["LAX"] * rows,
        "dep_delay": [42.0] * rows,
        "booked": [AT] * rows,
        **more,
    }
