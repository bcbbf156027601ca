//! Recordings: built byte by byte from `docs/recording.md`, read, and damaged.
// A test may panic on its own mistakes, and its helpers are no part of what it tests.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

#[path = "recording/blocks.rs"]
mod blocks;
#[path = "recording/builder.rs"]
mod builder;
#[path = "recording/damage.rs"]
mod damage;
#[path = "recording/estimates.rs"]
mod estimates;
#[path = "recording/heaps.rs"]
mod heaps;
#[path = "plain.rs"]
mod plain;
#[path = "recording/stacks.rs"]
mod stacks;
