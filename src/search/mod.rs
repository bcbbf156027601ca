//! Looking for needles: every place in memory that holds certain bytes, words or patterns.
//!
//! A [`Needle`] is made of what a person typed, [`find`] goes over the memory.
//! What this floor does not do: it neither knows regions beyond their bytes
//! (two that touch are one stretch of bytes) nor says what a match belongs to.

mod answer;
mod bytes;
mod escape;
mod finds;
mod needle;
mod pattern;
mod scan;
mod window;
mod words;

pub use escape::unescape;
pub use needle::Needle;
pub use pattern::LONGEST;
pub use scan::{Found, Match, Search, find, find_in_chunks};
