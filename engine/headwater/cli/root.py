"""The root of the command line: its commands, and how a failure leaves it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, Parameter

import headwater
from headwater.errors import HeadwaterError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["application", "run"]

_USAGE = 2
_INTERRUPTED = 130  # 128 and the signal's number, as shells do
_DEBUG = "--debug"

_HELP = (
    "Define a feature once; stream it, serve it and train on it, to the last bit the same.\n\n"
    "Every command takes --debug, which shows the traceback of an error. Exit codes: 0 all right,"
    " 1 a failure, 2 a wrong command or definition, 78 a wrong configuration, 130 interrupted."
)

# Imported when called, so that help and version wait for nothing. The texts stand here for help.
_COMMANDS = (
    ("plan", "headwater.cli.plan:plan", "Check definitions; print what they are and would change."),
    ("apply", "headwater.cli.apply:apply", "Register definitions and hand them to the workers."),
    ("serve", "headwater.cli.serve:serve", "Keep features fresh in a folder and serve gRPC."),
    (
        "run",
        "headwater.cli.run.command:run",
        "Run a worker on Kafka; start more for more capacity.",
    ),
    (
        "status",
        "headwater.cli.status:status",
        "Show a namespace's workers and tasks: owners, lag, freshness.",
    ),
    ("view", "headwater.cli.view:view", "List the versions of views, compare two, or remove one."),
    ("service", "headwater.cli.service:service", "Show what a service was, or go back to it."),
    (
        "features",
        "headwater.cli.catalog:features",
        "Find features by name, owner and tag.",
    ),
    (
        "stream",
        "headwater.cli.stream:stream",
        "Let a stream go on after its topic was made again or lost records.",
    ),
    ("dlq", "headwater.cli.dlq:dlq", "List dead letters; send them again, each of them once."),
    (
        "archive",
        "headwater.cli.archive:archive",
        "Look after the history of events: verify, compact, retain, name snapshots.",
    ),
    (
        "audit",
        "headwater.cli.audit:audit",
        "Compute served vectors again from history; name every value that differs.",
    ),
    (
        "training-set",
        "headwater.cli.training_set:training_set",
        "Write a spine with a service's features, as of each row's time.",
    ),
    (
        "demo",
        "headwater.cli.demo.command:demo",
        "Stream a year of flights, serve, train, and compare every value.",
    ),
)


def application() -> App:
    """Return the application with every command, none of them imported yet."""
    app = App(
        name="headwater",
        help=_HELP,
        version=headwater.__version__,
        default_parameter=Parameter(negative=()),
        help_format="plaintext",  # no Markdown to parse: help is there at once
        result_action="return_value",
    )
    for name, path, text in _COMMANDS:
        app.command(path, name=name, help=text)
    app.register_install_completion_command()
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, errors told in one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG in given
    tokens = [token for token in given if token != _DEBUG]
    try:
        code = application()(tokens, exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except CycloptsError as error:
        return _fail(_one_line(str(error)), _USAGE, debug=debug)
    except HeadwaterError as error:
        return _fail(_one_line(str(error)), error.exit_code, debug=debug)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last stop: told in one line, or in full
        return _fail(f"{type(error).__name__}: {_one_line(str(error))}", 1, debug=debug)
    return code if isinstance(code, int) else 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"headwater: error: {message}\n")
    return code
