//! The names of symbols as people write them.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::ops::Range;

use cpp_demangle::{BorrowedSymbol, DemangleOptions};

/// How much of a name is shown; a few letters of a hostile one may stand for gigabytes.
const MOST: usize = 16 << 10;

/// Longer names are not read: a hostile one takes a time that grows with the square of its
/// length, 24 ms for one of 16 KiB. The longest in 235,000 of the C++ and Rust libraries of a
/// Debian 12 has 1,222 bytes.
const LONGEST: usize = 8 << 10;

/// What people call the symbol: without its version and without the compiler's number,
/// C++ and Rust as they are written.
///
/// As gdb's `info symbol` has it for the most part: gdb leaves some versions in place,
/// and the hash of Rust's older names. What cannot be read stays as it is.
pub(super) fn readable(symbol: &str) -> String {
    // `stdout@GLIBC_2.2.5`, `memcpy@@GLIBC_2.14`: as ld copies them into the symbols of a program.
    let name = match symbol.split_once('@') {
        Some((name, _)) if !name.is_empty() => name,
        _ => symbol,
    };
    let mut text = Bounded(String::new());
    let written = if name.len() > LONGEST {
        None
    } else if rust(name) {
        rustc_demangle::try_demangle(name).ok().map(|name| write!(text, "{name:#}"))
    } else if name.starts_with("_Z") || name.starts_with("_GLOBAL_") {
        cpp(name, &mut text)
    } else {
        None
    };
    match written {
        Some(Ok(())) => text.0,
        _ => without_number(name).chars().take(MOST).collect(),
    }
}

/// Writes a name of C++; `None` where it cannot be read.
///
/// Of a function whose types the crate does not read the name is left, with `(…)`: those that
/// newer compilers write for `std::make_shared`, for one (`srSt8is_array`, `cpp_demangle` 0.5.1).
fn cpp(name: &str, text: &mut Bounded) -> Option<fmt::Result> {
    let (symbol, rest) = BorrowedSymbol::with_tail(name.as_bytes()).ok()?;
    if rest.is_empty() {
        let mut plain = Bounded(String::new());
        let written = symbol.structured_demangle(&mut plain, &DemangleOptions::default());
        if !expands_wrongly(name, &plain.0) {
            return Some(written.and_then(|()| as_gdb(&plain.0, text)));
        }
    }
    // Otherwise it is not a C++ name, whatever its prefix.
    if !rest.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.$".contains(byte)) {
        return None;
    }
    let mut plain = Bounded(String::new());
    let written =
        symbol.structured_demangle(&mut plain, &DemangleOptions::new().no_params().no_return_type());
    Some(written.and_then(|()| as_gdb(&plain.0, text)).and_then(|()| text.write_str("(…)")))
}

/// Whether the name is one that only linkers use: of C++ or Rust.
pub(super) fn mangled(name: &str) -> bool {
    name.starts_with("_Z") || name.starts_with("_R")
}

/// A static variable of a C function, `calls.0`, without the number that the compiler gave it.
fn without_number(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((variable, number))
            if !variable.is_empty()
                && !number.is_empty()
                && number.bytes().all(|digit| digit.is_ascii_digit()) =>
        {
            variable
        }
        _ => name,
    }
}

/// Whether the name is one of Rust's: the older form is C++'s, with a hash at its end.
fn rust(name: &str) -> bool {
    const HASH: usize = 16;
    let hash = name.rfind("17h").and_then(|at| name.get(at.saturating_add(3)..));
    let hash = hash.and_then(|rest| rest.split_once('E'));
    let hashed = hash
        .is_some_and(|(hash, _)| hash.len() == HASH && hash.bytes().all(|letter| letter.is_ascii_hexdigit()));
    name.starts_with("_R") || (name.starts_with("_ZN") && hashed)
}

/// The words of gdb for what the crate writes in braces.
fn special(text: &str) -> Option<String> {
    let (kind, name) = text.strip_prefix('{')?.strip_suffix(")}")?.split_once('(')?;
    let words = match kind {
        "vtable" => "vtable for",
        "vtt" => "VTT for",
        "virtual override thunk" => {
            let (offset, name) = name.split_once("}, ")?;
            let kind = if offset.starts_with("{virtual") { "virtual" } else { "non-virtual" };
            return Some(format!("{kind} thunk to {name}"));
        }
        _ => return None,
    };
    Some(format!("{words} {name}"))
}

/// Whether the crate puts what holds for each type of a pack behind the last one only: of
/// `const Types &...` for `int` and `char` it makes `(int, char const&)` (`cpp_demangle` 0.5.1).
///
/// Nothing is lost by leaving such types out: the pack is among the arguments of the template.
/// `plain` is what the crate makes of the name.
fn expands_wrongly(name: &str, plain: &str) -> bool {
    let mut packs: Vec<usize> = ["DpR", "DpK", "DpP", "DpV", "DpO"]
        .iter()
        .flat_map(|pack| name.match_indices(pack).map(|(at, _)| at))
        .collect();
    if packs.is_empty() {
        return false;
    }
    let words: BTreeSet<&str> = plain.split(|letter| !in_identifier(letter)).collect();
    for identifier in identifiers(name).filter(|identifier| {
        name.get(identifier.clone()).is_some_and(|identifier| words.contains(identifier))
    }) {
        packs.retain(|at| !identifier.contains(at));
    }
    !packs.is_empty()
}

/// Where the name may have identifiers, each after its length: `9UDpReader`.
///
/// Other numbers look like lengths, too: values (`Li4E`), sizes (`A3_`), substitutions (`S1_`). Those that
/// are lengths have words of the readable name after them.
fn identifiers(name: &str) -> impl Iterator<Item = Range<usize>> {
    let digit = |at: usize| name.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    (0..name.len()).filter(move |at| digit(*at)).filter_map(move |first| {
        // A number may follow another: in `_13foo` there is the length 3 after `_1`.
        let last = (first..).take(LONGEST_LENGTH).take_while(|at| digit(*at)).last().unwrap_or(first);
        let start = last.saturating_add(1);
        let length = name.get(first..start).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let ends = !digit(start) && length > 0;
        ends.then(|| start..start.saturating_add(length))
    })
}

/// Digits of the length of an identifier in a name of at most [`LONGEST`] bytes.
const LONGEST_LENGTH: usize = 4;

/// Whether identifiers of C++ may have the letter.
fn in_identifier(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == '$' || !letter.is_ascii()
}

/// How the crate writes the type of a number (before it), and how gdb does (after it).
const KINDS: [(&str, &str); 5] = [
    ("(unsigned int)", "u"),
    ("(long)", "l"),
    ("(unsigned long)", "ul"),
    ("(long long)", "ll"),
    ("(unsigned long long)", "ull"),
];

/// Writes the words of gdb where the crate has its own: for numbers, for packs of nothing, and
/// for what the linker makes.
fn as_gdb(plain: &str, text: &mut Bounded) -> fmt::Result {
    let special = special(plain);
    let mut rest = special.as_deref().unwrap_or(plain);
    while let Some(at) = rest.find([',', '(', '<']) {
        let (before, here) = rest.split_at_checked(at).ok_or(fmt::Error)?;
        text.write_str(before)?;
        if here.starts_with(", >") {
            rest = here.get(2..).unwrap_or_default();
        } else if let Some(after) = here.strip_prefix("<, ") {
            text.write_str("<")?;
            rest = after;
        } else if let Some((number, suffix, after)) = number(here) {
            write!(text, "{number}{suffix}")?;
            rest = after;
        } else {
            let (letter, after) = here.split_at_checked(1).ok_or(fmt::Error)?;
            text.write_str(letter)?;
            rest = after;
        }
    }
    text.write_str(rest)
}

/// The number that a text begins with, what follows it for gdb, and the rest of the text.
fn number(text: &str) -> Option<(&str, &str, &str)> {
    let (after, suffix) =
        KINDS.iter().find_map(|(kind, suffix)| Some((text.strip_prefix(kind)?, *suffix)))?;
    let digits = after.strip_prefix('-').unwrap_or(after);
    let more = digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len());
    let end = after.len().saturating_sub(digits.len()).saturating_add(more);
    (more > 0).then_some(())?;
    let (number, rest) = after.split_at_checked(end)?;
    Some((number, suffix, rest))
}

/// A text that takes no more than [`MOST`] bytes.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.0.len().saturating_add(piece.len()) > MOST {
            return Err(fmt::Error);
        }
        self.0.push_str(piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_their_language_writes_them() {
        for (symbol, name) in [
            ("table", "table"),
            ("calls.0", "calls"),
            ("walk.constprop.0", "walk.constprop"),
            (".0", ".0"),
            ("stdout@GLIBC_2.2.5", "stdout"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("@plt", "@plt"),
            ("_ZN5shape8registryE", "shape::registry"),
            ("_ZZ4mainE5calls", "main::calls"),
            ("_Z4fillRSt6vectorIiSaIiEEj", "fill(std::vector<int, std::allocator<int> >&, unsigned int)"),
            ("_ZTV5Shape", "vtable for Shape"),
            ("_ZTT5Shape", "VTT for Shape"),
            ("_ZTI5Shape", "typeinfo for Shape"),
            ("_ZGVZ4mainE5calls", "guard variable for main::calls"),
            ("_ZThn16_N5Shape4areaEv", "non-virtual thunk to Shape::area()"),
            ("_ZTv0_n24_N5Shape4areaEv", "virtual thunk to Shape::area()"),
            ("_ZN4ringIjLj8ELm4096ELln1EE4pushEv", "ring<unsigned int, 8u, 4096ul, -1l>::push()"),
            ("_ZN4llvm15AnalysisManagerI6ModuleJEE3runEv", "llvm::AnalysisManager<Module>::run()"),
            ("_ZN4leak5TABLE17h0123456789abcdefE", "leak::TABLE"),
            ("_RNvC4leak5TABLE", "leak::TABLE"),
            ("_Znothing of the kind", "_Znothing of the kind"),
            ("_R", "_R"),
        ] {
            assert_eq!(readable(symbol), name, "{symbol}");
        }
    }

    #[test]
    fn of_a_function_whose_types_cannot_be_read_the_name_is_left() {
        for (symbol, name) in [
            // g++ 13: `std::make_shared<Session>()`, whose result is a condition on its type.
            (
                "_ZSt11make_sharedI7SessionJEESt10shared_ptrINSt9enable_ifIXntsrSt8is_arrayIT_E5valueES3_E4typeEEDpOT0_",
                "std::make_shared<Session>(…)",
            ),
            // The crate would write `(int, double const&)`.
            ("_Z1fIJidEEvDpRKT_", "f<int, double>(…)"),
            ("_Z1fILi5EJidEEvDpRKT0_", "f<5, int, double>(…)"),
            // Values, substitutions and sizes are no lengths.
            ("_Z1fIJidEL4Kind4EEvDpRKT_", "f<int, double, (Kind)4>(…)"),
            ("_Z1fIJidELi12EEvDpRKT_", "f<int, double, 12>(…)"),
            ("_Z1fIJidEEvPA3_iDpRKT_", "f<int, double>(…)"),
            ("_Z1fILi4EJ2EDEEvDpRKT0_", "f<4, ED>(…)"),
            ("_Z1fIJ9UDpReaderiEEvDpRKT_", "f<UDpReader, int>(…)"),
            // Names, and no packs.
            ("_Z7open_itP9UDpReader", "open_it(UDpReader*)"),
            ("_Z7open_itRK5EndDpR1x", "open_it(EndDp const&, x&)"),
            ("_Z1fno types", "_Z1fno types"),
            ("_Z1fX?", "_Z1fX?"),
        ] {
            assert_eq!(readable(symbol), name, "{symbol}");
        }
    }

    #[test]
    fn a_name_that_stands_for_gigabytes_is_shown_as_it_is() {
        // A parameter p<A, A>, and then always one of the last, twice.
        let mut name = "_Z1f1pI1AS0_E".to_owned();
        for last in ('1'..='9').chain('A'..='Z') {
            write!(name, "S_IS{last}_S{last}_E").unwrap();
        }
        assert_eq!(readable(&name), name);
        let shorter = "_Z1f1pI1AS0_ES_IS1_S1_E";
        assert_eq!(readable(shorter), "f(p<A, A>, p<p<A, A>, p<A, A> >)");
    }

    #[test]
    fn names_of_any_length_stay_bounded() {
        let long = "x".repeat(3 * MOST);
        assert_eq!(readable(&long).len(), MOST);
    }

    #[test]
    fn hostile_names_of_a_hundred_kilobytes_are_read_or_left_and_never_long() {
        const LONG: usize = 100 << 10;
        let pieces = [
            "N", "I", "J", "X", "S_", "S0_", "T_", "Dp", "DpRK", "P", "RK", "F", "M", "A1_", "1a", "C1", "E",
            "L", "tl", "cv", "cl", "sr", "srN", "ad", "fp_", "fL", "Z", "K", "U1a", "Dv1_", "DT", "Qn",
            "W1a", "Ul", "Ut_", "B1a",
        ];
        for first in pieces {
            for second in pieces {
                for start in ["_Z", "_ZN", "_Z1fI", "_Z1f", "_RN"] {
                    let name = start.to_owned() + &(first.to_owned() + second).repeat(20);
                    assert!(readable(&name).len() <= MOST);
                }
            }
            // Read to their ends, they would take a second each.
            let name = "_Z1f".to_owned() + &first.repeat(LONG / first.len());
            assert!(readable(&name).len() <= MOST);
            let name = "_ZN1a".to_owned() + &first.repeat(LONG / first.len()) + "E";
            assert!(readable(&name).len() <= MOST);
        }
        for plain in ["(unsigned int)", "(unsigned int)1, >", "<, ", ", >", "((((", "é(long)"] {
            let mut text = Bounded(String::new());
            assert!(as_gdb(&plain.repeat(LONG / plain.len()), &mut text).is_err() || text.0.len() <= MOST);
        }
    }
}
