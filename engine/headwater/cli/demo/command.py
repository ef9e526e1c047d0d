"""`headwater demo`: the whole path on real data, with a closing table."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter, validators

from headwater.cli.output import progress_bars, write_json
from headwater.errors import HeadwaterError

__all__ = ["demo"]


def demo(
    *,
    log: Literal["embedded", "kafka"] = "embedded",
    rows: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    port: int = 0,
    json: bool = False,
) -> int:
    """Stream a year of flights through features, serve and train on them, compare every value.

    Under way a view gets a version 2: built from history beside version 1, compared with it, and
    cut over to. At the end what was served is audited.

    Needs the extra: pip install '.[demo]' in the checkout. Everything lies in a temporary folder
    that is removed at the end. Fails if one value served differs from the one trained on, or the
    audit finds a difference or nothing.

    On Kafka two workers share the work, and one of them is killed in the middle. The broker is the
    one that HEADWATER_KAFKA__BOOTSTRAP_SERVERS names, else one in Docker, else one from Python
    packages alone.

    Parameters
    ----------
    log
        Where events go: a log in this process, or a real Apache Kafka broker.
    rows
        Only the first flights of the year.
    port
        The gRPC port on loopback, on Kafka the first of two; 0 takes free ones.
    json
        Print the closing figures as one JSON document, as the last line.
    """
    from headwater.cli.demo.flights import check_extras

    check_extras()
    from rich.console import Console

    from headwater.cli.demo.report import closing_figures, closing_table, complaint
    from headwater.cli.demo.run import run_demo

    with progress_bars() as progress:
        figures = run_demo(log=log, rows=rows, port=port, progress=progress)
    if json:
        write_json(closing_figures(figures))
    else:
        Console().print(closing_table(figures))
    problem = complaint(figures, everything=rows is None)
    if problem:
        raise HeadwaterError(problem)
    return 0
