"""What cargo needs of the environment that tests run in."""

import os
import pwd


def environment(**more: str) -> dict[str, str]:
    """Return an environment to run cargo in, with MORE variables.

    Tests have no HOME, which is where rustup keeps Rust; and what the surroundings set for
    cargo is not for the tests.
    """
    home = pwd.getpwuid(os.getuid()).pw_dir
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CARGO_", "RUST")) or name in ("CARGO_HOME", "RUSTUP_HOME")
    }
    return {**kept, "HOME": home, **more}
