"""What every command has in common: options to a configuration, stdout kept for the answer, errors to exit codes."""

import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, make_dataclass
from typing import Any, Generic, TypeVar

import typer
from rich.console import Console

from zsq_compile.cli.options import CommandOptions, options_of, typer_fields
from zsq_compile.cli.overrides import build_config
from zsq_compile.config.compile import CompileConfig
from zsq_compile.config.fields import Setting
from zsq_compile.errors import BudgetError, ZsqError
from zsq_compile.progress import Progress, Silent

STARTED = time.perf_counter()  # importing torch takes seconds, which a time budget counts
INTERNAL, GATE_MISSED, INTERRUPTED = 1, 4, 130
EXIT_CODES: Mapping[int, str] = {
    0: "done",
    INTERNAL: "internal error",
    2: "wrong usage",
    3: "model invalid or unsupported",
    GATE_MISSED: "--min-agreement missed, file written",
    5: "the file fails in the runtime",
    6: "out of memory or time",
    INTERRUPTED: "interrupted",
}
EXIT_CODES_TEXT = f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}."
COMMANDS = ("inspect", "synth", "harvest", "compare", "package")
"""First words of the command line, each a module beside this one; without one of them the command line compiles."""

_TYPER = {
    # Snake case is what onnxruntime and its neighbours write: --act_bits is --act-bits.
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "help_option_names": ["--help", "-h"],
}

Options = TypeVar("Options", bound=CommandOptions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[Options]):
    """One call of a command.

    Attributes:
        options: of the command alone.
        config: what its other options and the configuration file come to.
        given: names of those other options that were given.
        progress: receives the stages.

    """

    options: Options
    config: CompileConfig
    given: frozenset[str]
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a command says at its end.

    Attributes:
        plain: for --json, but for the exit code.
        brief: lines for --quiet; None says everything then too.
        table: prints what the lines do not say.
        lines: for people.
        exit_code: of the process.
        complaint: line for stderr.

    """

    plain: Callable[[], Mapping[str, Any]]
    brief: Sequence[object] | None = None
    table: Callable[[Console], None] | None = None
    lines: Sequence[str] = ()
    exit_code: int = 0
    complaint: str | None = None

    def show(self, options: CommandOptions) -> None:
        """Print the answer in the form that is asked for."""
        if options.json:
            print_json({**self.plain(), "exit_code": self.exit_code})
        elif options.quiet and self.brief is not None:
            _print_lines(self.brief)
        else:
            if self.table is not None:
                self.table(Console())
            _print_lines(self.lines)
        if self.complaint is not None:
            typer.echo(self.complaint, err=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command(Generic[Options]):
    """A command of the command line.

    Attributes:
        own: options of the command alone.
        configured: names of those that it takes of the configuration.
        work: does it; its docstring is the help.
        epilog: last paragraph of the help.

    """

    own: type[Options]
    configured: Sequence[str] = ()
    work: Callable[[Call[Options]], Answer]
    epilog: str = EXIT_CODES_TEXT

    @property
    def options(self) -> Mapping[str, Setting]:
        """All options, in the order of the help."""
        return options_of(self.own, self.configured)

    def run(self, words: Sequence[str], name: str) -> None:
        """Run the command. Always ends in SystemExit."""
        # typer reads a signature; this class has one that was not written by hand, and is the call of the command.
        call = make_dataclass(
            "Given",
            typer_fields(self.own, self.options),
            namespace={"__post_init__": lambda given: self._answer(vars(given))},
            repr=False,
            eq=False,
        )
        app = typer.Typer(add_completion=False, context_settings=_TYPER)
        app.command(help=self.work.__doc__, epilog=self.epilog)(call)
        app(words, prog_name=name)

    def _answer(self, values: Mapping[str, Any]) -> None:
        given = {name: value for name, value in values.items() if value is not None}
        alone = {name: given.pop(name) for name in values if name in self.own.__dataclass_fields__ and name in given}
        options = self.own(**alone)
        with guarded(options) as progress:
            config = build_config(given, alone.get("config"))
            answer = self.work(Call(options=options, config=config, given=frozenset(given), progress=progress))
        answer.show(options)
        raise typer.Exit(answer.exit_code)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object, and nothing that JSON does not have."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


@contextmanager
def guarded(options: CommandOptions) -> Iterator[Progress]:
    """Keep stdout for the answer while the work goes on, and end in an exit code where it fails."""
    try:
        with _stdout_kept(), warnings.catch_warnings():
            if not options.verbose:
                warnings.simplefilter("ignore")
            yield _progress(options)
    except (Exception, KeyboardInterrupt) as error:
        code, words = _verdict(error)
        if options.verbose:
            traceback.print_exc()
        if options.json:
            print_json({"error": {"type": type(error).__name__, "message": words}, "exit_code": code})
        Console(stderr=True).print(words, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(code) from error


def _print_lines(lines: Sequence[object]) -> None:
    for line in lines:
        typer.echo(line)


def _progress(options: CommandOptions) -> Progress:
    if options.quiet:
        return Silent()
    from zsq_compile.cli.progress_bars import ConsoleProgress

    return ConsoleProgress(Console(stderr=True), verbose=options.verbose)


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
