//! Dumps held to `od`, text and strings held to naive scans over random layouts.
// A test may panic on its own mistakes, and its helpers are no part of what it tests.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::format_push_string, clippy::format_collect)]

#[path = "inspect/addresses.rs"]
mod addresses;
#[path = "inspect/dump.rs"]
mod dump;
#[path = "inspect/layout.rs"]
mod layout;
#[path = "inspect/strings.rs"]
mod strings;
#[path = "inspect/template.rs"]
mod template;
#[path = "inspect/text.rs"]
mod text;
