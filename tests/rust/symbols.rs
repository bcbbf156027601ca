//! Symbols of real programs, by address: of processes, and of cores made from them here.
// What goes wrong in a test is a failed test; the other test of cores uses the rest of the builder.
#![allow(
    dead_code,
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

mod core_builder;
#[path = "symbols/files.rs"]
mod files;
#[path = "symbols/lines.rs"]
mod lines;
#[path = "symbols/places.rs"]
mod places;
#[path = "symbols/running.rs"]
mod running;
