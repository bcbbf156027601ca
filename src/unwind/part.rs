//! A part of a function: code that has an entry of `.eh_frame` of its own.

use super::Unclear;
use super::code::Code;
use super::landing_pads::Site;
use super::rules::{Cfa, Rules};

/// Where the CFA is when a function starts, and when it makes its last call.
pub(super) const FRAMELESS: Cfa = Cfa::Rsp(8);

/// A function, or a part of it that has rules of its own.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) rules: Rules,
    pub(super) code: Code,
    /// Where exceptions lead.
    pub(super) sites: Vec<Site>,
    /// What makes frames of it alive as a whole, whatever its code does.
    pub(super) unclear: Option<Unclear>,
}

impl Part {
    /// The part that `rules` are for, with its bytes.
    pub(super) fn new(bytes: &[u8], rules: Rules) -> Self {
        let code = Code::decode(bytes, &rules);
        let mut unclear = code.unclear;
        if rules.expressions {
            unclear = unclear.or(Some(Unclear::Rules));
        }
        // The address of code that is not a function's start: a label, which something may jump
        // to (GCC, "Labels as Values"), or which `__builtin_setjmp` returns to.
        let label = |address: u64| rules.range.contains(address) && address != rules.range.start();
        let labels = code.ops.iter().any(|op| op.address.is_some_and(label));
        if labels {
            unclear = unclear.or(Some(Unclear::Jump));
        }
        Self { rules, code, sites: Vec::new(), unclear }
    }
}
