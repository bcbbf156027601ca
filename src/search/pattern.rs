//! Needles that are patterns: leftmost, not overlapping, of a bounded length.
//!
//! What a match is, in one sentence: from left to right, at the first place
//! where the pattern matches within the next [`LONGEST`] bytes; the next match
//! begins at its end or later. The bound is what makes an answer independent
//! of how memory is cut: without it `[^\0]+` would have to be followed through
//! gigabytes to say where it ends.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use regex_automata::meta::{BuildError, Regex};
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::{Anchored, Input};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, Look};

use super::bytes::{Sink, Stretch};
use super::escape::shown;
use super::window::{Reach, Window, offset};
use crate::error::Error;
use crate::pass::Job;

/// Bytes in the longest match of a pattern.
pub const LONGEST: usize = 4096;

/// Bytes that a compiled pattern may take: some thousand bytes to match, or four `(?u)\w`.
///
/// An engine that runs out of memory for its tables takes a time for each byte
/// that grows with this, and cannot be interrupted before it has gone through
/// the longest match: 7 s for `a{1,4096}c` in a's when 4 MiB were taken, under
/// 0.2 s for the largest of that form that 256 KiB let pass.
const COMPILED: usize = 256 << 10;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    given: String,
    regex: Regex,
    longest: usize,
    /// Whether it matches anywhere in memory that is all zeros.
    in_zeros: bool,
}

impl Pattern {
    pub(super) fn new(pattern: &str, ignore_case: bool, longest: usize) -> Result<Self, Error> {
        let refuse = |rule: String| Error::Needle { needle: shown(pattern.as_bytes()), rule };
        let longest = longest.max(1);
        let mut parser = ParserBuilder::new();
        parser.unicode(false).utf8(false).multi_line(true).case_insensitive(ignore_case);
        let hir = parser.build().parse(pattern).map_err(|error| refuse(syntax_error(&error)))?;
        if let Some(rule) = unusable(&hir, longest) {
            return Err(refuse(rule));
        }
        let config = Regex::config()
            .utf8_empty(false)
            .which_captures(WhichCaptures::Implicit)
            .nfa_size_limit(Some(COMPILED));
        let compiled = Regex::builder().configure(config).build_from_hir(&hir);
        let regex = compiled.map_err(|error| refuse(build_error(&error)))?;
        let longest = hir.properties().maximum_len().unwrap_or(longest).clamp(1, longest);
        let in_zeros = in_zeros(&regex, longest);
        Ok(Self { given: pattern.to_owned(), regex, longest, in_zeros })
    }

    /// The pattern as given.
    pub(super) fn given(&self) -> &str {
        &self.given
    }

    /// Whether it matches anywhere in memory that is all zeros.
    pub(super) fn in_zeros(&self) -> bool {
        self.in_zeros
    }

    /// A byte before a match and one after it decide about `\b`, `^` and `$`.
    pub(super) fn reach(&self) -> Reach {
        Reach { before: 1, after: self.longest as u64 }
    }

    /// Tells `sink` of all matches that start in the window, at `next` or later.
    ///
    /// `next` becomes the end of the last match.
    pub(super) fn scan(
        &self,
        window: &Window<'_>,
        next: &mut u64,
        job: &Job,
        sink: &mut Sink<'_>,
    ) -> ControlFlow<()> {
        // An engine that is given too much goes on far beyond the longest match
        // wherever the pattern lets it, for each start anew (`a+b` in a run of
        // a's), and cannot be interrupted meanwhile; one that is given little
        // looks at the overlap too often. So starts are taken by blocks that
        // grow while nothing is found and that is known soon.
        const FIRST: usize = 1 << 12;
        const MOST: usize = 1 << 16;
        const SOON: Duration = Duration::from_millis(4);
        let mut at = window.starts.start.max(offset(window.address, *next));
        let mut block = FIRST;
        while at < window.starts.end {
            if job.stopped() {
                return ControlFlow::Break(());
            }
            let stop = at.saturating_add(block).min(window.starts.end);
            // As far as the longest match of the last start of the block may go.
            let end = stop.saturating_sub(1).saturating_add(self.longest).min(window.bytes.len());
            let asked = Instant::now();
            let found = self.regex.search(&Input::new(window.bytes).span(at..end));
            let soon = asked.elapsed() < SOON;
            let Some(found) = found.filter(|found| found.start() < stop) else {
                at = stop;
                block = if soon { block.saturating_mul(2).min(MOST) } else { (block / 2).max(1) };
                continue;
            };
            // No earlier start matches, however short its match were. A match that is
            // not too long is also the one that is found in the bytes allowed to it.
            let start = found.start();
            let allowed = start.saturating_add(self.longest).min(end);
            let match_end = if found.end() <= allowed {
                Some(found.end())
            } else {
                let input = Input::new(window.bytes).span(start..allowed).anchored(Anchored::Yes);
                self.regex.search(&input).map(|found| found.end())
            };
            if let Some(match_end) = match_end {
                sink(Stretch {
                    first: window.address_of(start),
                    step: 1,
                    count: 1,
                    length: u32::try_from(match_end.saturating_sub(start)).unwrap_or(u32::MAX),
                })?;
                *next = window.address_of(match_end);
                at = match_end;
                block = if soon { FIRST } else { block };
            } else {
                at = start.saturating_add(1);
                block = (block / 2).max(1);
            }
        }
        ControlFlow::Continue(())
    }
}

/// Whether the pattern matches where nothing but zeros is around: if not at one place, then at none.
fn in_zeros(regex: &Regex, longest: usize) -> bool {
    let end = longest.saturating_add(1);
    let zeros = vec![0; end.saturating_add(1)];
    regex.is_match(Input::new(&zeros).span(1..end).anchored(Anchored::Yes))
}

/// The rule that a pattern breaks which is well formed.
fn unusable(hir: &Hir, longest: usize) -> Option<String> {
    let properties = hir.properties();
    let looks = properties.look_set();
    if looks.contains(Look::Start) || looks.contains(Look::End) {
        return Some(r"\A and \z have no meaning in memory; ^ and $ are the borders of a line".to_owned());
    }
    if looks.contains_word_unicode() {
        return Some(r"a \b under (?u) cannot be looked for; put it outside, as (?-u:\b)".to_owned());
    }
    match properties.minimum_len() {
        Some(0) => Some("matches no bytes at all, which is everywhere; make it match one".to_owned()),
        Some(shortest) if shortest > longest => {
            Some(format!("matches at least {shortest} bytes; at most {longest} are taken"))
        }
        _ => None,
    }
}

/// What is wrong with a pattern, and at which character, on one line.
fn syntax_error(error: &regex_syntax::Error) -> String {
    let (kind, span) = match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span()),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span()),
        _ => return one_line(&error.to_string()),
    };
    let place = match (span.start.line, span.start.column) {
        (1, column) => format!("at character {column}"),
        (line, column) => format!("at line {line}, character {column}"),
    };
    format!("{} ({place})", one_line(&kind))
}

fn build_error(error: &BuildError) -> String {
    match error.size_limit() {
        Some(limit) => format!("is too large: it compiles to more than {limit} bytes"),
        None => one_line(&error.to_string()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, hay: &[u8]) -> Vec<(u64, u32)> {
        let pattern = Pattern::new(pattern, false, LONGEST).unwrap();
        let mut matches = Vec::new();
        let window = Window { bytes: hay, address: 0, starts: 0..hay.len() };
        let flow = pattern.scan(&window, &mut 0, &Job::default(), &mut |stretch| {
            matches.push((stretch.first, stretch.length));
            ControlFlow::Continue(())
        });
        assert!(flow.is_continue());
        matches
    }

    fn refused(pattern: &str) -> String {
        Pattern::new(pattern, false, LONGEST).unwrap_err().to_string()
    }

    #[test]
    fn a_hex_escape_in_a_pattern_is_a_byte() {
        assert_eq!(matches(r"\xff+", b"a\xff\xff\xc3\xbf"), [(1, 2)]);
        assert_eq!(matches(r"\x00{3}", b"a\0\0\0\0b"), [(1, 3)]);
    }

    #[test]
    fn a_letter_beyond_ascii_is_its_utf8() {
        assert_eq!(matches("ä+", "xää".as_bytes()), [(1, 4)]);
        assert_eq!(matches(r"(?u)\w+", "«ää»".as_bytes()), [(2, 4)]);
    }

    #[test]
    fn line_anchors_stand_at_every_line() {
        assert_eq!(matches("^leak$", b"leak\nleaks\nleak"), [(0, 4), (11, 4)]);
    }

    #[test]
    fn a_match_ends_after_4096_bytes_and_the_next_follows() {
        let hay = b"a".repeat(10_000);
        assert_eq!(matches("a+", &hay), [(0, 4096), (4096, 4096), (8192, 1808)]);
    }

    #[test]
    fn a_match_that_needs_more_than_4096_bytes_starts_later() {
        let hay = [b"a".repeat(100_000), b"b".to_vec()].concat();
        assert_eq!(matches("a+b", &hay), [(100_001 - 4096, 4096)]);
    }

    #[test]
    fn a_bad_pattern_is_refused_on_one_line_with_its_place() {
        assert_eq!(refused("leak(ed"), "needle leak(ed: unclosed group (at character 5)");
        assert!(!refused("(a\n[z-a]").contains('\n'));
        assert!(refused("(a\n[z-a]").ends_with("(at line 2, character 2)"), "{}", refused("(a\n[z-a]"));
    }

    #[test]
    fn a_pattern_that_matches_nothing_at_all_is_refused() {
        let rule = "matches no bytes at all, which is everywhere; make it match one";
        for pattern in ["", "a*", r"\b", "^", "(a|)"] {
            assert!(refused(pattern).ends_with(rule), "{pattern}");
        }
    }

    #[test]
    fn anchors_of_the_whole_text_are_refused() {
        assert!(refused(r"\Aleak").contains(r"\A and \z have no meaning in memory"));
        assert!(refused(r"leak\z").contains(r"\A and \z have no meaning in memory"));
        assert!(refused("(?-m)^leak").contains("^ and $ are the borders of a line"));
    }

    #[test]
    fn a_word_border_of_unicode_is_refused() {
        assert!(refused(r"(?u)\bleak").contains(r"put it outside, as (?-u:\b)"));
    }

    #[test]
    fn a_pattern_that_needs_more_than_the_longest_match_is_refused() {
        assert!(refused("a{4097}").ends_with("matches at least 4097 bytes; at most 4096 are taken"));
    }

    #[test]
    fn a_pattern_that_grows_beyond_all_bounds_is_refused() {
        assert!(refused("(((a{1,100}){1,100}){1,100}){1,100}").contains("is too large"));
    }
}
