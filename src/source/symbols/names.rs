//! The names of symbols as people write them.

use std::fmt::{self, Write};

use cpp_demangle::DemangleOptions;

/// How much of a name is shown; a few letters of a hostile one may stand for gigabytes.
const MOST: usize = 16 << 10;

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
    let written = if rust(name) {
        rustc_demangle::try_demangle(name).ok().map(|name| write!(text, "{name:#}"))
    } else if name.starts_with("_Z") || name.starts_with("_GLOBAL_") {
        let parsed = cpp_demangle::Symbol::new(name).ok();
        parsed.map(|name| name.structured_demangle(&mut text, &DemangleOptions::default()))
    } else {
        None
    };
    match written {
        Some(Ok(())) => special(&text.0).unwrap_or(text.0),
        _ => without_number(name).chars().take(MOST).collect(),
    }
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
        "vtable" => "vtable",
        "vtt" => "VTT",
        _ => return None,
    };
    Some(format!("{words} for {name}"))
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
            ("_ZN4leak5TABLE17h0123456789abcdefE", "leak::TABLE"),
            ("_RNvC4leak5TABLE", "leak::TABLE"),
            ("_Znothing of the kind", "_Znothing of the kind"),
            ("_R", "_R"),
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
}
