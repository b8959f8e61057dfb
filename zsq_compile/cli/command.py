"""What every command has in common: stdout kept for the answer, errors turned into words and exit codes."""

import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from zsq_compile.errors import BudgetError, ZsqError
from zsq_compile.progress import Progress, Silent

INTERRUPTED, INTERNAL = 130, 1
SETTINGS = {
    # Snake case is what onnxruntime and its neighbours write: --act_bits is --act-bits.
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "help_option_names": ["--help", "-h"],
}
"""How every command reads its words."""


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object, and nothing that JSON does not have."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


@contextmanager
def guarded(json_wanted: bool, quiet: bool, verbose: bool) -> Iterator[Progress]:
    """Keep stdout for the answer while the work goes on, and end in an exit code where it fails."""
    try:
        with _stdout_kept(), warnings.catch_warnings():
            if not verbose:
                warnings.simplefilter("ignore")
            yield _progress(quiet, verbose)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, typer.Exit):
            raise
        code, words = _verdict(error)
        if verbose:
            traceback.print_exc()
        if json_wanted:
            print_json({"error": {"type": type(error).__name__, "message": words}, "exit_code": code})
        Console(stderr=True).print(words, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(code) from error


def _progress(quiet: bool, verbose: bool) -> Progress:
    if quiet:
        return Silent()
    from zsq_compile.cli.progress_bars import ConsoleProgress

    return ConsoleProgress(Console(stderr=True), verbose=verbose)


def _verdict(error: BaseException) -> tuple[int, str]:
    """Exit code and words for whatever ended the work."""
    if isinstance(error, ZsqError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted: nothing half-written was left behind"
    # torch reports a failed allocation as a plain RuntimeError.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return BudgetError.exit_code, "error: memory ran out: try fewer --samples, --effort fast, or a larger machine"
    first = str(error).strip().split("\n")[0]
    return INTERNAL, f"internal error: {type(error).__name__}: {first} (-v shows the traceback; please report it)"


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Send to stderr whatever libraries print to stdout, native ones too: stdout is for the answer."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
