"""``gdb-leak run``: a program run with the recorder in it, and judged where it ends."""

from collections.abc import Iterator

from gdb_leak import coverage, recording
from gdb_leak.errors import UsageError
from gdb_leak.layout import Block
from gdb_leak.options import Command, Operand, Option
from gdb_leak.target import Launch, Request, Result, Watch

_MOST_STATUS = 255
#: Options of the check that are of no use here, or are declared here.
_LEFT_OUT = ("list", "error-exitcode")
_NAME = "run"


def declared(check: Command) -> Command:
    """Return the declaration, which takes the options of the command CHECK as well."""
    return Command(
        name=_NAME,
        summary="Run a program, and show at its end which blocks are lost.",
        operands=(
            Operand(
                "PROGRAM", "What to run, looked for in PATH as a shell does.", "file", rest=True
            ),
            Operand("ARGUMENT", least=0, most=None, rest=True),
        ),
        options=(
            Option(
                "error-exitcode",
                "End with status N if a block is definitely or possibly lost, else with 3 if no "
                "verdict is possible or too much memory is in no heap that can be judged.",
                "number",
                "N",
            ),
            Option(
                "at",
                "Judge when this function is called for the first time, and let the program run "
                "on without a report at its end.",
                "text",
                "FUNCTION",
            ),
            Option(
                "trace-children",
                "Record and judge the processes that the program starts as well, each when it "
                "ends; gdb-leak waits for all of them.",
            ),
            Option(
                "log-file",
                "Write the report into this file; %p in its name stands for the process.",
                "file",
                "FILE",
            ),
            *recording.OPTIONS,
            *(option for option in check.options if option.name not in _LEFT_OUT),
        ),
        description=(
            "The report is leak-check's (gdb-leak help check), taken where the process ends: by "
            "exit, by the end of its last thread, or by a signal. It goes to standard error, "
            "after a line that names the process and says how it ended; with -json it is one "
            "line for each process. Standard output is the program's own, and so is the status, "
            "with -error-exitcode only where nothing is lost; a program that died by a signal "
            "makes gdb-leak die by it. Signals that are sent to gdb-leak (TERM, HUP, USR1, USR2) "
            "are handed on to the program. Options stand before PROGRAM; what follows it is the "
            "program's.\n\n"
            "The program is traced by gdb-leak, so no other debugger can attach to it meanwhile, "
            "and a set-uid program that it executes keeps the rights of its caller. What record "
            "refuses is refused here as well."
        ),
        example=("", "gdb-leak run -error-exitcode 9 -- ./prog -x input"),
        target=False,
    )


def run(request: Request) -> Result:
    """Return the program to run and how to follow it, in place of an answer."""
    parsed = request.parsed
    status = parsed.count("error-exitcode", None)
    if status is not None and not 0 <= status <= _MOST_STATUS:
        raise UsageError(f"-error-exitcode {status}: not a number from 0 to {_MOST_STATUS}")
    function, log = parsed.word("at"), parsed.word("log-file")
    children = parsed.flag("trace-children")
    if children and function is not None:
        raise UsageError("-at and -trace-children exclude each other")
    if children and log is not None and "%p" not in log.raw.replace("%%", ""):
        raise UsageError(
            f"-log-file {log.raw}: with -trace-children each process needs a file of its own: "
            "%p in the name stands for the process"
        )
    settings = recording.settings(parsed)
    watch = Watch(
        function.raw if function is not None else None,
        children,
        log.raw if log is not None else None,
        None if status is None else coverage.UNJUDGED,
    )
    result = Result(_NAME, None, {})
    words = tuple(word.raw for word in parsed.operands)
    result.launch = Launch(words, recording.library(), settings, watch)
    return result


def text(_result: Result) -> Iterator[Block]:
    """Yield nothing: the program runs in place of an answer."""
    yield from ()
