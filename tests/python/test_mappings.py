"""What gdb prints of a remote target's mappings is taken byte by byte, however gdb decodes it."""

from functools import partial

import pytest
from gdb_leak.doors import gdb_text, mappings

LIST = (
    b"process 7\n\n  Start Addr  End Addr  Size  Offset  Perms  objfile\n"
    b"  0x1000  0x2000  0x1000  0x0  r--p  /n\xc3\xa4me\n"
)
SECTIONS = (
    b"Exec file: `/n\xc3\xa4me', file type elf64-x86-64.\n"
    b" [0]      0x00001000->0x00002000 at 0x00000000: .text ALLOC LOAD READONLY CODE HAS_CONTENTS\n"
)


class Gdb:
    """Prints as a gdb whose host has CHARSET, and decodes what it printed by DECODED."""

    def __init__(self, charset: str, decoded: str) -> None:
        """Take both names."""
        self.said = {
            "info proc mappings": LIST,
            "maint info sections -all-objects": SECTIONS,
            r"echo \303\244": b"\xc3\xa4",
            "show host-charset": f'The host character set is "{charset}".\n'.encode(),
        }
        self.decoded = decoded

    def __call__(self, command: str) -> str:
        """Return what COMMAND prints."""
        return self.said[command].decode(self.decoded)


@pytest.mark.parametrize(
    ("charset", "decoded"),
    [("UTF-8", "utf-8"), ("ISO-8859-15", "utf-8"), ("ISO-8859-15", "iso8859-15")],
)
class TestEveryWayToDecode:
    def test_mappings_are_the_bytes_that_gdb_printed(self, charset: str, decoded: str) -> None:
        found = mappings.listed(
            partial(gdb_text.printed, Gdb(charset, decoded)),
            errors=ValueError,
            numbers=[7],
            program=None,
            read=lambda *_: None,
        )
        assert found.text == LIST

    def test_sections_are_those_of_the_file(self, charset: str, decoded: str) -> None:
        ((_, _, _, name),) = mappings.sections(partial(gdb_text.printed, Gdb(charset, decoded)))
        assert name == "/n\u00e4me"
