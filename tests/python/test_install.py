"""The block in a gdbinit file, loading into gdb, and the doctor's checks."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Optional

import gdb_leak.install
import pytest
from gdb_leak import recorder
from gdb_leak.errors import FileError
from gdb_leak.install import doctor, gdbinit_line, gdbinit_path, install, remove, sourced
from gdb_leak.recorder import Library

PACKAGE = Path(gdb_leak.install.__file__).parent.parent
needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb here")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".gdbinit"


def test_block_goes_into_a_file_that_is_not_there_yet(file: Path) -> None:
    edit = install(file)
    assert edit.changed
    assert edit.line == gdbinit_line() == f"source {PACKAGE}/gdbinit.py"
    assert gdbinit_line() in file.read_text().splitlines()
    assert sourced(file) == (PACKAGE / "gdbinit.py",)


def test_installing_twice_changes_nothing_the_second_time(file: Path) -> None:
    install(file)
    before = file.read_bytes()
    assert not install(file).changed
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"set confirm off\n",
        b"set confirm off",
        b"\n\n",
        b"set prompt \xff\xe9\x00 \r\nset pagination off\r\n",
    ],
)
def test_remove_gives_back_what_was_there_byte_for_byte(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    install(file)
    install(file)
    assert remove(file).changed
    assert file.read_bytes() == content
    assert not remove(file).changed


def test_text_written_behind_the_block_stays_on_a_line_of_its_own(file: Path) -> None:
    file.write_bytes(b"set confirm off")
    install(file)
    with file.open("ab") as stream:
        stream.write(b"set pagination off\n")
    remove(file)
    assert file.read_bytes() == b"set confirm off\nset pagination off\n"


def test_an_old_block_is_replaced_where_it_stands(file: Path) -> None:
    old = b"# >>> gdb-leak >>>\nsource /gone/gdb_leak/gdbinit.py\n# <<< gdb-leak <<<\n"
    file.write_bytes(b"first\n" + old + b"last\n" + old)
    install(file)
    content = file.read_bytes()
    assert content.startswith(b"first\n# >>>")
    assert content.endswith(b"<<<\nlast\n")
    assert b"/gone/" not in content
    remove(file)
    assert file.read_bytes() == b"first\nlast\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"one\n# >>> gdb-leak >>>\nmine\n", 2),
        (b"# >>> gdb-leak >>>\n# >>> gdb-leak >>>\n# <<< gdb-leak <<<\n", 1),
        (b"mine\n\n# <<< gdb-leak <<<\n", 3),
    ],
)
def test_marks_without_a_partner_are_refused_and_nothing_is_changed(
    file: Path, content: bytes, line: int
) -> None:
    file.write_bytes(content)
    for edit in (install, remove):
        with pytest.raises(FileError, match=f":{line}: the gdb-leak block has no"):
            edit(file)
    assert file.read_bytes() == content


def test_mode_and_link_are_kept(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "dotfiles" / "gdbinit"
    target.parent.mkdir()
    target.write_text("set confirm off\n")
    target.chmod(0o640)
    file.symlink_to(target)
    install(file)
    assert file.is_symlink()
    assert b">>> gdb-leak >>>" in target.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(tmp_path.rglob("*gdbinit*")) == [file, target]


def test_remove_deletes_a_file_that_install_made_and_no_other(tmp_path: Path, file: Path) -> None:
    install(file)
    install(file)
    assert remove(file).deleted
    assert not file.exists()
    install(file)
    with file.open("ab") as stream:
        stream.write(b"set confirm off\n")
    assert not remove(file).deleted
    assert file.read_bytes() == b"set confirm off\n"
    # Empty before, and not made here.
    empty = tmp_path / "empty"
    empty.touch()
    install(empty)
    assert not remove(empty).deleted
    assert empty.read_bytes() == b""


def test_a_file_made_through_a_link_is_deleted_and_the_link_stays(
    tmp_path: Path, file: Path
) -> None:
    (tmp_path / "dotfiles").mkdir()
    file.symlink_to("dotfiles/gdbinit")
    install(file)
    assert (tmp_path / "dotfiles/gdbinit").is_file()
    assert remove(file).deleted
    assert file.is_symlink()
    assert list((tmp_path / "dotfiles").iterdir()) == []


@pytest.mark.parametrize("links", [False, True])
def test_a_pipe_in_the_files_place_is_an_error_and_is_not_waited_for(
    tmp_path: Path, file: Path, links: bool
) -> None:
    pipe = tmp_path / "pipe" if links else file
    os.mkfifo(pipe)
    if links:
        file.symlink_to(pipe)
    for edit in (install, remove, sourced):
        with pytest.raises(FileError, match="not a regular file") as error:
            edit(file)
        assert "\n" not in str(error.value)
    assert pipe.is_fifo()
    assert not checks({"HOME": str(tmp_path), "PATH": str(tmp_path)})["gdbinit"].ok


def test_a_link_in_a_circle_is_an_error(tmp_path: Path, file: Path) -> None:
    file.symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(file)
    for edit in (install, remove):
        with pytest.raises(FileError, match="Too many levels"):
            edit(file)


def test_a_file_with_two_names_is_not_edited_under_one_of_them(tmp_path: Path, file: Path) -> None:
    file.write_text("set confirm off\n")
    (tmp_path / "other").hardlink_to(file)
    with pytest.raises(FileError, match="has 2 names"):
        install(file)
    assert (tmp_path / "other").samefile(file)
    assert not remove(file).changed


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "here"}])
def test_without_a_home_there_is_no_file_to_write(environ: dict[str, str]) -> None:
    with pytest.raises(FileError, match=r"^HOME is .*, and gdb looks for its gdbinit file there$"):
        gdbinit_path(None, environ)
    found = checks({**environ, "PATH": "/none"})["gdbinit"]
    assert not found.ok
    assert found.advice == "Set HOME to your home folder."


def test_a_configured_file_needs_no_home(tmp_path: Path) -> None:
    configured = tmp_path / "gdb" / "gdbinit"
    configured.parent.mkdir()
    configured.touch()
    assert gdbinit_path(None, {"XDG_CONFIG_HOME": str(tmp_path)}) == configured


def test_a_folder_in_the_files_place_is_an_error_in_one_line(file: Path) -> None:
    file.mkdir()
    with pytest.raises(FileError, match="is a directory"):
        install(file)


def test_remove_makes_no_file(file: Path) -> None:
    assert not remove(file).changed
    assert not file.exists()


def test_the_file_is_the_one_that_gdb_reads(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    own = tmp_path / ".gdbinit"
    assert gdbinit_path(None, home) == own
    own.touch()
    configured = tmp_path / ".config" / "gdb" / "gdbinit"
    configured.parent.mkdir(parents=True)
    configured.touch()
    assert gdbinit_path((13, 1), home) == configured
    assert gdbinit_path((10, 1), home) == own
    elsewhere = tmp_path / "elsewhere" / "gdb" / "gdbinit"
    assert gdbinit_path((13, 1), {**home, "XDG_CONFIG_HOME": str(tmp_path / "elsewhere")}) == own
    elsewhere.parent.mkdir(parents=True)
    elsewhere.touch()
    configuration = {**home, "XDG_CONFIG_HOME": str(tmp_path / "elsewhere")}
    assert gdbinit_path((13, 1), configuration) == elsewhere


# Loading into gdb: a small package stands in for the real one, so that each
# cause can be made to happen.


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder with spaces" / "gdb_leak"
    (folder / "doors").mkdir(parents=True)
    shutil.copy(PACKAGE / "gdbinit.py", folder)
    (folder / "__init__.py").write_text("")
    (folder / "doors" / "__init__.py").write_text("")
    (folder / "doors" / "gdb.py").write_text(
        "import gdb\ndef register():\n    gdb.write('registered from %s\\n' % __name__)\n"
    )
    return folder


def load(package: Path, *commands: str) -> "subprocess.CompletedProcess[str]":
    """Run a gdb whose gdbinit sources the package and then goes on."""
    script = package.parent / "init.gdb"
    script.write_text(f"source {package}/gdbinit.py\n" * 2 + "echo went on\\n\n")
    arguments: list[str] = []
    for command in commands:
        arguments += ["-ex", command]
    return subprocess.run(
        ["gdb", "-nx", "-batch", "-ix", str(script), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_gdb
def test_sourcing_twice_registers_once_and_leaves_sys_path_and_main_alone(package: Path) -> None:
    ask = "python import sys; print('path', [p for p in sys.path if 'spaces' in p])"
    names = "python print('main', [name for name in globals() if name.startswith('_l')])"
    done = load(package, ask, names)
    assert done.stdout.splitlines() == [
        "registered from gdb_leak.doors.gdb",
        "went on",
        "path []",
        "main []",
    ]
    assert done.stderr == ""


def failure(package: Path) -> str:
    """Return the line of a load that does not work, which must not stop the gdbinit."""
    done = load(package)
    assert done.stdout == "went on\n"
    first, second = done.stderr.splitlines()
    assert first == second, "the second load must fail as the first did"
    assert first.startswith("gdb-leak: not loaded: ")
    return first


@needs_gdb
def test_a_missing_native_module_is_named(package: Path) -> None:
    (package / "doors" / "gdb.py").write_text("import gdb_leak._native\n")
    assert f"the native module is missing from {package}" in failure(package)


@needs_gdb
def test_a_module_for_another_machine_is_named(package: Path) -> None:
    (package / "doors" / "gdb.py").write_text("import gdb_leak._native\n")
    header = bytearray(Path(sys.executable).resolve().read_bytes()[:64])
    header[18:20] = (0x1234).to_bytes(2, sys.byteorder)
    (package / "_native.abi3.so").write_bytes(header)
    assert "is for another machine (machine 4660, " in failure(package)


@needs_gdb
def test_a_module_for_another_c_library_is_named(package: Path) -> None:
    source = package / "native.c"
    source.write_text(
        '__asm__(".symver puts, puts@GLIBC_9.99");int puts(const char *);'
        'void *PyInit__native(void) { puts(""); return 0; }'
    )
    stub = package / "stub.c"
    stub.write_text("int puts(const char *text) { return *text; }")
    versions = package / "versions"
    versions.write_text("GLIBC_9.99 { global: puts; };")
    # A C library of the future: a stub with its name and a version of its own.
    libc = package / "libc.so.6"
    native = package / "_native.abi3.so"
    compiler = ["gcc", "-shared", "-fPIC", "-nostdlib", "-w"]
    subprocess.run(
        [*compiler, "-Wl,-soname,libc.so.6", f"-Wl,--version-script={versions}", "-o", libc, stub],
        check=True,
    )
    subprocess.run([*compiler, "-o", native, source, libc], check=True)
    (package / "doors" / "gdb.py").write_text("import gdb_leak._native\n")
    line = failure(package)
    assert "was built for another C library" in line
    assert "GLIBC_9.99" in line


@needs_gdb
def test_a_missing_file_of_the_package_is_named(package: Path) -> None:
    (package / "doors" / "gdb.py").write_text("import gdb_leak.render\n")
    (package / "_native.abi3.so").touch()
    assert "gdb_leak.render is missing from" in failure(package)
    (package / "__init__.py").unlink()
    assert "__init__.py is missing: install gdb-leak again" in failure(package)


@needs_gdb
def test_a_python_that_is_too_old_is_named(package: Path) -> None:
    script = package / "gdbinit.py"
    script.write_text(script.read_text().replace("(3, 9)", "(9, 9)"))
    assert "the Python in this gdb is 3." in failure(package)


@needs_gdb
def test_any_other_error_is_one_line_too(package: Path) -> None:
    (package / "doors" / "gdb.py").write_text("raise BaseException('one\\ntwo')\n")
    assert failure(package).endswith("BaseException: one")


# The doctor.


def checks(environ: dict[str, str]) -> dict[str, gdb_leak.install.Check]:
    return {check.name: check for check in doctor(environ)}


def test_no_gdb_is_an_answer(tmp_path: Path) -> None:
    found = checks({"HOME": str(tmp_path), "PATH": str(tmp_path)})
    assert not found["gdb"].ok
    assert found["gdb"].detail == "no gdb in PATH"
    assert "apt install gdb" in found["gdb"].advice
    assert set(found) == {"gdb", "gdbinit", "core", "recorder"}


def test_a_gdb_named_by_the_environment_is_the_one_asked(tmp_path: Path) -> None:
    missing = checks({"HOME": str(tmp_path), "PATH": os.environ["PATH"], "GDB": "/no/gdb"})
    assert missing["gdb"].detail == "GDB=/no/gdb is no program"
    other = checks({"HOME": str(tmp_path), "PATH": os.environ["PATH"], "GDB": "cat"})
    assert "does not answer as gdb does" in other["gdb"].detail


def test_a_gdb_without_python_is_said(tmp_path: Path) -> None:
    script = tmp_path / "gdb-minimal"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*--version*) echo 'GNU gdb (Debian 13.1-3) 13.1' ;;\n"
        "*) echo 'Python scripting is not supported in this copy of GDB.' >&2; exit 1 ;;\n"
        "esac\n"
    )
    script.chmod(0o755)
    found = checks({"HOME": str(tmp_path), "PATH": os.environ["PATH"], "GDB": str(script)})
    assert found["gdb"].detail == f"{script}, version 13.1"
    assert not found["python"].ok
    assert "module" not in found
    assert not found["trace"].ok


def test_doctor_starts_a_program_with_the_recorder() -> None:
    check = checks({"GDB": "/nowhere"})["recorder"]
    assert check.ok, check
    assert str(PACKAGE / "recorder") in check.detail


def test_doctor_says_why_there_is_no_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(Path("/nowhere"), "it knows x86-64 only, and this is sparc")
    monkeypatch.setattr(recorder, "installed", lambda: library)
    check = checks({"GDB": "/nowhere"})["recorder"]
    assert not check.ok
    assert check.detail == "none: it knows x86-64 only, and this is sparc"
    assert "record" in check.advice


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no library", "a program does not start with it (status 0): ERROR: ld.so"),
        (None, "is of version 7."),
    ],
)
def test_doctor_says_what_is_wrong_with_a_recorder(
    content: Optional[bytes], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path / recorder.NAME, "")
    own = recorder.installed().path.read_bytes()
    mark = b"gdb-leak recorder version "
    other = re.sub(mark + rb"[0-9]", mark + b"7", own)
    library.path.write_bytes(content or other)
    monkeypatch.setattr(recorder, "installed", lambda: library)
    check = checks({"GDB": "/nowhere"})["recorder"]
    assert not check.ok
    assert said in check.detail


@needs_gdb
def test_doctor_finds_the_real_gdb_and_what_it_may_do(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    found = checks(environ)
    assert found["gdb"].ok
    assert found["python"].ok
    assert found["module"].ok, found["module"].detail
    assert found["gdbinit"].detail == f"{tmp_path}/.gdbinit does not load gdb-leak"
    assert found["core"].detail
    for check in found.values():
        assert check.ok or check.advice.endswith("."), check
    install(tmp_path / ".gdbinit")
    assert checks(environ)["gdbinit"].ok


def test_a_gdbinit_that_loads_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    (tmp_path / ".gdbinit").write_text("source /gone/gdb_leak/gdbinit.py\n")
    found = checks({"HOME": str(tmp_path), "PATH": str(tmp_path)})
    assert "/gone/gdb_leak/gdbinit.py, which is not there" in found["gdbinit"].detail
