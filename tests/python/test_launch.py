"""Where a program that is started finds the recorder."""

from pathlib import Path

import pytest
from gdb_leak.doors import launch
from gdb_leak.errors import FileError

BLANK = "/opt/with blank/lib.so"


def test_a_path_that_ld_preload_takes_stays_as_it_is() -> None:
    assert launch._without_blanks("/opt/lib.so") == "/opt/lib.so"


@pytest.mark.parametrize("path", [BLANK, "/opt/a:b/lib.so", "/opt/$LIB/lib.so"])
def test_another_path_is_reached_by_a_link_of_this_users_alone(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        link = Path(launch._without_blanks(path))
        assert (str(link.readlink()), link.name) == (path, "lib.so")
        assert link.parent.parent.stat().st_mode & 0o777 == 0o700
    assert len(list(link.parent.parent.iterdir())) == 1


def test_a_link_is_not_made_where_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path))
    folder = Path(launch._without_blanks(BLANK)).parent.parent
    folder.chmod(0o777)
    with pytest.raises(FileError, match="alone"):
        launch._without_blanks(BLANK)


def test_no_link_helps_where_the_folder_for_links_has_blanks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path / "a b"))
    with pytest.raises(FileError, match="LD_PRELOAD takes no path"):
        launch._without_blanks(BLANK)
