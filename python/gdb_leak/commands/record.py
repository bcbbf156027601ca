"""``gdb-leak record``: a program run with the recorder in it."""

from collections.abc import Iterator

from gdb_leak import recording
from gdb_leak.layout import Block
from gdb_leak.options import Command, Operand
from gdb_leak.target import Launch, Request, Result

COMMAND = Command(
    name="record",
    summary="Run a program and record which code allocated each block.",
    operands=(
        Operand("PROGRAM", "What to run, looked for in PATH as a shell does.", "file", rest=True),
        Operand("ARGUMENT", least=0, most=None, rest=True),
    ),
    options=recording.OPTIONS,
    description=(
        "Status and outputs are the program's, and what it executes is recorded as well. What "
        "was recorded is part of any core of it, and of the running process: leak-check shows "
        "the stacks and the sizes asked for. Options stand before PROGRAM; what follows it is "
        "the program's.\n\n"
        "What cannot be recorded is refused before it runs: programs that are linked statically "
        "or against musl, that define malloc themselves, that are not for x86-64, and that run "
        "with the rights of their owner (set-uid, set-gid, capabilities). Of a script the "
        "interpreter is meant.\n\n" + recording.ENVIRONMENT
    ),
    example=("", "gdb-leak record -sample 512K -- ./server -p 8080"),
    target=False,
    json=False,
)


def run(request: Request) -> Result:
    """Return the program to run, in place of an answer."""
    parsed = request.parsed
    result = Result(COMMAND.name, None, {})
    words = tuple(word.raw for word in parsed.operands)
    result.launch = Launch(words, recording.library(), recording.settings(parsed))
    return result


def text(_result: Result) -> Iterator[Block]:
    """Yield nothing: the program runs in place of an answer."""
    yield from ()
