//! What bytes mean to a person: dumps, words, strings, repeated records.

pub mod addresses;
mod by_hash;
pub mod hexdump;
pub mod records;
mod runs;
mod slots;
pub mod strings;
mod tally;
pub mod template;
pub mod text;
pub mod words;
