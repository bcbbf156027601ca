"""Numbers as people read and type them."""

import pytest
from gdb_leak import units
from gdb_leak.errors import UsageError


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (512, "512 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (135168, "132 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (3 << 29, "1.5 GiB"),
        ((1 << 64) - 1, "16.0 EiB"),
        (-135168, "-132 KiB"),
        (-1, "-1 bytes"),
    ],
)
def test_size_is_shown_in_the_unit_that_fits(size: int, text: str) -> None:
    assert units.size_text(size) == text


def test_address_has_the_full_width_of_a_word() -> None:
    assert units.address_text(0x1F, 4) == "0x0000001f"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0x10", 16),
        ("0X1f", 31),
        ("10", 10),
        ("-1", -1),
        ("-0x2", -2),
        ("132K", 135168),
        ("2m", 2 << 20),
    ],
)
def test_number_is_read(text: str, number: int) -> None:
    assert units.parse_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "x", "0x", "1.5", "0x1G", "1_0", "\uff11", "--1", "9" * 5000, "1KiB"]
)
def test_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as error:
        units.parse_number(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("typed", "nanoseconds"),
    [
        ("0", 0),
        ("10", 10 * 10**9),
        ("10s", 10 * 10**9),
        ("1.5s", 1_500_000_000),
        ("200ms", 200_000_000),
        ("0.5ms", 500_000),
        ("5m", 300 * 10**9),
        ("2h", 7200 * 10**9),
        ("1d", 86400 * 10**9),
    ],
)
def test_ages_are_read_with_their_units(typed: str, nanoseconds: int) -> None:
    assert units.parse_age(typed) == nanoseconds


@pytest.mark.parametrize(
    "typed", ["", "s", "-1s", "1 s", "1y", "1.s", ".5s", "0x10", "9" * 15 + "d"]
)
def test_what_is_no_age_is_refused(typed: str) -> None:
    with pytest.raises(UsageError, match="age"):
        units.parse_age(typed)


def test_ages_are_shown_in_units_of_their_size() -> None:
    shown = [units.age_text(seconds * 10**9) for seconds in (0, 12, 303, 7300, 200_000)]
    assert shown == ["0 ms", "12.0 s", "5 min 3 s", "2 h 1 min", "2 days"]
