"""Reading what gdb's own commands print."""

import pytest
from gdb_leak.doors import gdb_says

INFO_FILES = """Symbols from "/tmp/leaky".
Local core dump file:
\t`/tmp/it's a core', file type elf64-x86-64.
\t0x0000555555554000 - 0x0000555555555000 is load1
\tWhile running this, GDB does not access memory from...
Local exec file:
\t`/tmp/leaky', file type elf64-x86-64.
"""

SECTIONS = """Exec file: `/tmp/leaky', file type elf64-x86-64.
 [0]      0x555555554318->0x555555554334 at 0x00000318: .interp ALLOC LOAD READONLY DATA
 [14]     0x555555555090->0x555555555265 at 0x00001090: .text ALLOC LOAD READONLY CODE HAS_CONTENTS
 [23]     0x7ffff7fa38e0->0x7ffff7fa3960 at 0x000008d0: .tbss ALLOC
 [25]     0x555555558038->0x555555558048 at 0x00003038: .bss ALLOC
 [26]     0x00000000->0x00000027 at 0x00003038: .comment READONLY HAS_CONTENTS
"""


def test_core_path_may_hold_a_quote() -> None:
    assert gdb_says.core_path(INFO_FILES) == "/tmp/it's a core"


def test_no_core_has_no_path() -> None:
    assert gdb_says.core_path(INFO_FILES.replace("Local core dump", "Local exec")) is None


def test_stack_of_targets_is_read_topmost_first() -> None:
    text = (
        "The current target stack is:\n  - multi-thread (threads.)\n  - native (Native process)\n"
    )
    assert gdb_says.target_stack(text) == ["multi-thread", "native"]


def test_sections_in_memory_have_permissions_and_names() -> None:
    assert gdb_says.sections(SECTIONS) == [
        (0x555555554318, 0x555555554334, "r--", "/tmp/leaky"),
        (0x555555555090, 0x555555555265, "r-x", "/tmp/leaky"),
        (0x555555558038, 0x555555558048, "rw-", "/tmp/leaky"),
    ]


def test_answer_without_mappings_is_none() -> None:
    assert gdb_says.mappings("process 1\n") is None
    assert gdb_says.mappings("  0x1000  0x2000 0x1000 0x0 rw-p\n")


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ('The host character set is "auto; currently ANSI_X3.4-1968".\n', "auto"),
        ('The host character set is "ISO-8859-1".\n', "ISO-8859-1"),
    ],
)
def test_charset_that_gdb_chose_is_set_back_to_its_choice(said: str, setting: str) -> None:
    assert gdb_says.charset_setting(said) == setting


def test_charset_is_read_from_both_forms() -> None:
    assert gdb_says.charset('The host character set is "auto; currently UTF-8".\n') == "UTF-8"
    assert gdb_says.charset('The host character set is "ISO-8859-1".\n') == "ISO-8859-1"


def test_how_gdb_reaches_a_target_is_told_by_itself_or_by_its_stack() -> None:
    assert gdb_says.connection(["native", "exec", "None"], None) == "native"
    assert gdb_says.connection(["multi-thread", "extended-remote", "exec"], "remote") == "remote"
    assert gdb_says.connection(["exec", "None"], None) is None
    # What is recorded stands for another time than the process is at.
    assert gdb_says.connection(["record-full", "native", "exec"], "native") == "record-full"
