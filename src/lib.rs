//! Memory-leak hunting on live processes and core files.
//!
//! The floors, lowest first; a module uses lower floors only:
//! [`error`], [`text`], [`name`], [`range`], [`word`], [`view`]; [`memory`], [`peek`], [`pass`], [`pages`], [`save`];
//! [`source`]; [`search`], [`inspect`], [`diff`], [`unwind`], [`recording`]; [`heap`]; [`graph`]; [`leak`].

pub mod diff;
pub mod error;
pub mod graph;
pub mod heap;
pub mod inspect;
pub mod leak;
pub mod memory;
pub mod name;
pub mod pages;
pub mod pass;
pub mod peek;
#[cfg(feature = "python")]
mod python;
pub mod range;
pub mod recording;
pub mod save;
pub mod search;
pub mod source;
pub mod text;
pub mod unwind;
pub mod view;
pub mod word;
