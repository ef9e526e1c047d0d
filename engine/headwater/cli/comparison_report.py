"""What was found of two versions of a view, for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from headwater.registry.changes import causes, view_difference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headwater.offline.comparison import Comparison, FeatureComparison

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison, the spine it was made for in words, and the file of the rows that differ."""

    comparison: Comparison
    spine: str
    output: Path | None

    @property
    def head(self) -> str:
        """What was compared."""
        old, new = self.comparison.old.id, self.comparison.new.id
        count = self.comparison.rows
        return f"{old} and {new} for {count:,} row{'' if count == 1 else 's'} of {self.spine}:"

    def table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return the columns of a table, and a row for each feature that both have."""
        old, new = self.comparison.old.id, self.comparison.new.id
        columns = [
            "feature", "compared", "equal", "differing", f"only {old}", f"only {new}",
            "largest difference", "relative", "why",
        ]  # fmt: skip
        return columns, [self._row(one) for one in self.comparison.features]

    def _row(self, one: FeatureComparison) -> tuple[str, ...]:
        counts = (one.compared, one.equal, one.differing, one.only_old, one.only_new)
        return (
            one.name,
            *(f"{count:,}" for count in counts),
            "" if one.largest_absolute is None else f"{one.largest_absolute:.6g}",
            "" if one.largest_relative is None else f"{one.largest_relative:.3%}",
            "" if one.is_same else "; ".join(self._causes(one)),
        )

    def _causes(self, one: FeatureComparison) -> tuple[str, ...]:
        return causes(self.comparison.old, self.comparison.new, one.name)

    def lines(self) -> list[str]:
        """Return what a table has no room for: examples, what changed, and the outcome."""
        found = self.comparison
        lines = [
            f"only in {view.id}: {', '.join(names)}"
            for view, names in ((found.old, found.only_old), (found.new, found.only_new))
            if names
        ]
        lines += [line for one in found.features for line in _examples(one)]
        if logic := view_difference(found.old, found.new):
            lines += ["what changed:", *(f"  {line}" for line in logic)]
        if self.output is not None:
            lines.append(f"{self.output}: the rows that differ")
        return [*lines, self._outcome()]

    def _outcome(self) -> str:
        found = self.comparison
        if not found.rows:
            return "nothing was compared: there are no events, or the spine has no rows"
        if found.is_same:
            return "every value is the same, bit for bit"
        differing = [one.name for one in found.features if one.differing]
        other = [one.name for one in found.features if not one.compared]
        told = [f"values differ: {', '.join(differing)}"] if differing else []
        told += [f"not compared, of another type: {', '.join(other)}"] if other else []
        return "; ".join(told)

    def facts(self) -> dict[str, Any]:
        """Return the same as plain data that can be written as JSON."""
        found = self.comparison
        return {
            "old": found.old.id,
            "new": found.new.id,
            "rows": found.rows,
            "spine": self.spine,
            "is_same": found.is_same,
            "only_old": list(found.only_old),
            "only_new": list(found.only_new),
            "features": [
                {
                    "name": one.name,
                    "old_type": str(one.old_dtype),
                    "new_type": str(one.new_dtype),
                    "compared": one.compared,
                    "equal": one.equal,
                    "differing": one.differing,
                    "only_old": one.only_old,
                    "only_new": one.only_new,
                    "largest_absolute": one.largest_absolute,
                    "largest_relative": one.largest_relative,
                    "why": list(self._causes(one)),
                    "examples": [
                        {
                            "entity": {key: _plain(value) for key, value in each.entity.items()},
                            "at": _plain(each.at),
                            "old": _plain(each.old),
                            "new": _plain(each.new),
                        }
                        for each in one.examples
                    ],
                }
                for one in found.features
            ],
            "logic": list(view_difference(found.old, found.new)),
            "output": None if self.output is None else str(self.output),
        }


def _examples(one: FeatureComparison) -> Iterator[str]:
    for each in one.examples[:1]:  # machines get them all
        entity = ", ".join(f"{key}={_plain(value)}" for key, value in each.entity.items())
        values = f"{_plain(each.old)} -> {_plain(each.new)}"
        yield f"{one.name} of {entity} at {_plain(each.at)}: {values}"


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value
