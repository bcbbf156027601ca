//! Heaps of glibc's malloc, made from its sources' figures and walked back, whole and damaged.
// A test may panic on its own mistakes, and its helpers are no part of what it tests.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

#[path = "heap/answer.rs"]
mod answer;
#[path = "heap/blocks.rs"]
mod blocks;
#[path = "heap/builder.rs"]
mod builder;
#[path = "heap/cases.rs"]
mod cases;
#[path = "heap/damage.rs"]
mod damage;
#[path = "heap/figures.rs"]
mod figures;
#[path = "heap/grouping.rs"]
mod grouping;
#[path = "heap/guards.rs"]
mod guards;
#[path = "heap/halfway.rs"]
mod halfway;
#[path = "heap/image.rs"]
mod image;
#[path = "heap/inside.rs"]
mod inside;
#[path = "heap/linked.rs"]
mod linked;
#[path = "heap/links.rs"]
mod links;
#[path = "heap/mappings.rs"]
mod mappings;
#[path = "heap/noise.rs"]
mod noise;
#[path = "heap/plan.rs"]
mod plan;
#[path = "heap/strings.rs"]
mod strings;
#[path = "heap/supported.rs"]
mod supported;
#[path = "heap/tables.rs"]
mod tables;
#[path = "heap/walk.rs"]
mod walk;
