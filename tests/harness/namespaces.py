"""Commands in a /dev of their own, which no fault of a writer takes from the machine."""

import functools
import subprocess
from pathlib import Path

import pytest

#: A user and mount namespace of its own, in which this user is root.
ALONE = ("unshare", "--user", "--map-root-user", "--mount")
# /dev/null and the like are the machine's, mounted one by one: their names can be looked at, and
# neither removed nor replaced. The links are files of this /dev.
_DEV = """
mount -t tmpfs -o mode=755 none "$1"
for name in null zero full urandom tty; do
    : >"$1/$name"
    mount --bind "/dev/$name" "$1/$name"
done
mkdir "$1/shm"
mount --rbind "$1" /dev
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
shift
exec "$@"
"""


@functools.cache
def problem() -> str:
    """Return why no such namespace can be made here; nothing where it can."""
    try:
        made = subprocess.run([*ALONE, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return "no unshare here"
    return made.stderr.decode("utf-8", "replace").strip() if made.returncode else ""


def own_dev(folder: Path) -> tuple[str, ...]:
    """Return the words before those of a command, which gets a /dev of its own, made in FOLDER.

    Skips the test where the system has no user namespaces for this user.
    """
    if problem():
        pytest.skip(f"no namespace of its own: {problem()}")
    folder.mkdir(exist_ok=True)
    return (*ALONE, "sh", "-eu", "-c", _DEV, "sh", str(folder))


def small_disk(folder: Path, size: int) -> tuple[str, ...]:
    """Return the words before those of a command, for which FOLDER is a disk of SIZE bytes."""
    if problem():
        pytest.skip(f"no namespace of its own: {problem()}")
    folder.mkdir(exist_ok=True)
    script = 'mount -t tmpfs -o "size=$2" none "$1"; shift 2; exec "$@"'
    return (*ALONE, "sh", "-eu", "-c", script, "sh", str(folder), str(size))
