//! What bytes mean to a person: dumps, words, strings, repeated records.

pub mod hexdump;
pub mod records;
mod runs;
pub mod strings;
mod tally;
pub mod text;
pub mod words;
