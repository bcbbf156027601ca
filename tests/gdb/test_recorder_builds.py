"""The recorder built with flags that distributions and people set."""

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import ROOT, recorder, rust, soak
from harness.processes import Program
from harness.recorder import OPTIMISED

SOAK = soak.ASKED


class Build(NamedTuple):
    """Flags of rustc, settings of cargo's profile, and whether it is the one for debugging."""

    flags: str = ""
    profile: tuple[tuple[str, str], ...] = ()
    debug: bool = False


def profile(**settings: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"CARGO_PROFILE_RELEASE_{name.upper()}", to) for name, to in settings.items())


FRAMES = "-C force-frame-pointers=yes"
#: Those of each test run; the others take minutes (`make soak`).
USUAL = [Build(FRAMES), Build(f"-C opt-level=0 {FRAMES}", profile(lto="off"))]
OTHERS = [
    *(Build(f"-C opt-level={level}") for level in "123sz"),
    *(Build(f"-C target-cpu={cpu}") for cpu in ("native", "x86-64-v2", "x86-64-v3")),
    *(Build(f"-C code-model={model}") for model in ("medium", "large")),
    *(Build(f"-C force-unwind-tables={answer}") for answer in ("yes", "no")),
    *(Build("", profile(lto=lto)) for lto in ("off", "thin", "false")),
    *(Build("", profile(lto="off", codegen_units=units)) for units in ("1", "256")),
    Build("-C relocation-model=pie"),
    Build("-C overflow-checks=yes"),
    Build("-C debug-assertions=yes"),
    Build("-C no-prepopulate-passes"),
    Build("-C no-redzone=yes"),
    Build("-C link-dead-code=yes"),
    Build("-C link-arg=-Wl,--no-gc-sections"),
    Build("-C symbol-mangling-version=v0"),
    Build("-C relro-level=full -C strip=symbols"),
    Build(f"{FRAMES} -C debuginfo=2 -C strip=none -C link-arg=-Wl,-z,now --cap-lints=warn"),
    Build("", debug=True),
    Build(FRAMES, debug=True),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("builds")
    calls = recorder.build("recorder_calls.c", folder, "-fno-builtin")
    return calls, recorder.build("recorder_stress.c", folder, *OPTIMISED)


@pytest.mark.parametrize(
    "build", USUAL + OTHERS if SOAK else USUAL, ids=lambda build: f"{build.flags} {build.profile}"
)
def test_a_recorder_built_with_any_flags_records_every_block(
    programs: tuple[Path, Path], build: Build, tmp_path: Path
) -> None:
    target = ROOT / "target" / "recorder-flags"
    target.mkdir(parents=True, exist_ok=True)
    name, kind = "libgdb_leak_recorder.so", "debug" if build.debug else "release"
    # Tests that run at the same time build in the same folder.
    with (target / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            [
                *("sh", "scripts/with-rust", "cargo", "build", "--locked", "--quiet"),
                *("--manifest-path", "recorder/Cargo.toml", "--target-dir", target),
                *([] if build.debug else ["--release"]),
            ],
            cwd=ROOT,
            env=rust.environment(RUSTFLAGS=build.flags, RUST_MINOR="88", **dict(build.profile)),
            check=True,
        )
        ours = Path(shutil.copy(target / kind / name, tmp_path / name))
    for path, arguments in ((programs[0], []), (programs[1], ["3", "100000", "1"])):
        program = Program(path, *arguments, environment=recorder.settings(ours=ours))
        try:
            told, recording = recorder.ready(program)
            assert told.blocks
            for address, (_, function, size) in told.blocks.items():
                block = recording.blocks[address]
                names = recording.names(block.stack)
                assert (names[0], block.size) == (function, size)
                assert {"main", "start_thread"} & set(names), names
        finally:
            program.end()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Copy what builds the recorder: the script writes into the package beside it."""
    for name in ("recorder", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "python" / "gdb_leak" / "recorder").mkdir(parents=True)
    return tmp_path


def said(sources: Path, **variables: str) -> tuple[int, str]:
    """Run the script: its status, and the last line that it says, which the package has too."""
    done = subprocess.run(
        ["scripts/build-recorder"],
        cwd=sources,
        env=rust.environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    folder = sources / "python" / "gdb_leak" / "recorder"
    assert [path.name for path in folder.iterdir()] == ["missing.txt"]
    reason = (folder / "missing.txt").read_text(encoding="utf-8")
    line = done.stderr.splitlines()[-1]
    assert line == f"build-recorder: no recorder: {reason.strip()}"
    return done.returncode, reason


def test_a_library_that_cargo_puts_elsewhere_is_missed_in_one_line(sources: Path) -> None:
    (sources / ".cargo").mkdir()
    (sources / ".cargo" / "config.toml").write_text(
        '[build]\ntarget = "x86_64-unknown-linux-gnu"\n'
    )
    status, reason = said(sources)
    assert status == 1
    assert reason.startswith("cargo made no ")
    assert "build.target" in reason


@pytest.mark.parametrize(
    "flags",
    [
        "-C panic=unwind",
        "-C relocation-model=static",
        "-C target-feature=+crt-static",
        "-C instrument-coverage",
    ],
)
def test_flags_that_make_no_recorder_are_refused_in_one_line(sources: Path, flags: str) -> None:
    status, reason = said(sources, RUSTFLAGS=flags)
    assert status == 1
    assert reason.endswith(f" (RUSTFLAGS: {flags})\n")


def test_without_a_rust_that_is_new_enough_there_is_a_package_with_the_reason(
    sources: Path,
) -> None:
    (sources / "scripts" / "with-rust").write_text("exit 1\n", encoding="utf-8")
    assert said(sources) == (
        0,
        "cargo and rustc >= 1.88 are needed to build it, and were not found\n",
    )
