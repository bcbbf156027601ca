//! Who called: return addresses by the rules of `.eh_frame`, kept for each of them.
//!
//! Most code is built without frame pointers, so what compilers write for exceptions is
//! the one source that is right. Looking a rule up costs a microsecond; a program has
//! some thousand places that calls return to, so each place's rule is kept, in eight
//! bytes, and a step costs a few nanoseconds.
//!
//! One way is a library that walks stacks with a cache of its own (framehop). It keeps a
//! cache for each thread, asks for memory when modules are added, and took about twice as
//! long for a step, 10.8 ns to 5.5 through code without frame pointers (`benches/unwind`).
//! The rules are read by gimli here as there. Frame pointers alone would take less than a
//! nanosecond, but in such code they end at the first frame.

pub(crate) mod modules;
pub(crate) mod rule;
pub(crate) mod rules;
pub(crate) mod walk;
