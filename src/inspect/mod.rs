//! What bytes mean to a person: dumps, words, strings, repeated records.

pub mod hexdump;
pub mod text;
pub mod words;
