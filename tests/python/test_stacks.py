"""The shapes of stacks."""

from gdb_leak import stacks
from gdb_leak.target import Line

LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
STACK = [
    *stacks.frames(0x4011A6, [Line("malloc", module="/usr/lib/recorder.so")]),
    *stacks.frames(
        0x401136,
        [
            Line("inner", "/inc/inner.h", 7, "/bin/sample"),
            Line("my_alloc", "/src/sample.c", 12),
        ],
    ),
    *stacks.frames(0x7F5C0A61, [Line(None, module=LIBC)]),
    *stacks.frames(0x10, []),
    *stacks.frames(0x20, [Line("start", "/src/start.S", None, LIBC)]),
]


def text() -> list[str]:
    return ["".join(span.text for span in line) for line in stacks.stack_lines(STACK, "   ")]


def test_a_stack_reads_as_valgrind_has_it() -> None:
    assert text() == [
        "   at 0x4011a6: malloc (in /usr/lib/recorder.so)",
        "   by 0x401136: inner (inner.h:7)",
        "   by 0x401136: my_alloc (sample.c:12)",
        f"   by 0x7f5c0a61: ??? (in {LIBC})",
        "   by 0x10: ???",
        "   by 0x20: start (start.S)",
    ]


def test_json_has_the_name_and_the_path_of_the_source() -> None:
    values = stacks.stack_value(STACK)
    assert values[1] == {
        "pc": "0x401136",
        "function": "inner",
        "file": "inner.h",
        "line": 7,
        "path": "/inc/inner.h",
        "module": "/bin/sample",
    }
    assert values[4] == {
        "pc": "0x10",
        **dict.fromkeys(["function", "file", "line", "path", "module"]),
    }
