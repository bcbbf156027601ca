"""What is installed, by whichever way."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import gdb_leak
import pytest
from gdb_leak import recorder
from harness import rust, soak

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the source distribution."""
    folder = tmp_path_factory.mktemp("sources")
    subprocess.run(
        [Path(sys.executable).with_name("maturin"), "sdist", "--out", folder],
        cwd=ROOT,
        env=rust.environment(),
        capture_output=True,
        check=True,
    )
    (archive,) = folder.iterdir()
    return archive


def test_the_source_distribution_has_all_that_builds_the_recorder(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    built = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "recorder").rglob("*")
        if path.suffix in (".rs", ".toml", ".lock") and "target" not in path.parts
    }
    assert len(built) > 15
    scripts = {f"scripts/{name}" for name in ("build-recorder", "stage", "with-rust")}
    assert names >= built | scripts | {"build.rs"}
    assert not {name for name in names if name.endswith((".so", "missing.txt"))}


@pytest.mark.skipif(not soak.ASKED, reason="builds all of it: make soak")
@pytest.mark.timeout(3600)
def test_what_is_installed_from_the_source_distribution_has_the_recorder(
    archive: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", archive],
        cwd=tmp_path,
        env=rust.environment(),
        check=True,
    )
    run = [tmp_path / "venv" / "bin" / "gdb-leak", "run", "-error-exitcode", "9", "--", "true"]
    assert subprocess.run(run, cwd=tmp_path, check=False).returncode == 0


def test_the_recorder_has_the_version_of_the_package() -> None:
    versions = {
        re.search(r'^version = "(.*)"$', (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)[1]  # type: ignore[index]
        for name in ("Cargo.toml", "recorder/Cargo.toml")
    }
    assert versions == {gdb_leak.__version__, recorder.installed().version}
