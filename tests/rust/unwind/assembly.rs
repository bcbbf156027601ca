//! Code and its rules as a listing.

use gdb_leak::range::AddressRange;
use gdb_leak::unwind::{Cfa, Row, Rules, Saved, Slots};

/// What a listing says: code, and from which byte on which rules hold.
pub(crate) struct Listing {
    pub(crate) code: Vec<u8>,
    pub(crate) cfas: Vec<(usize, Cfa)>,
    /// Where registers are saved, from the start on.
    pub(crate) saved: Vec<i64>,
}

/// Reads a listing: bytes in hexadecimal with the instruction behind them, and lines with a sign.
///
/// `= rsp+16` is where the CFA is from there on; `= ?` when nobody can tell; `@ -24` is where
/// a register is saved. Before the first of these the CFA is where a call leaves it.
pub(crate) fn listing(text: &str) -> Listing {
    let mut listing = Listing { code: Vec::new(), cfas: vec![(0, Cfa::Rsp(8))], saved: Vec::new() };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        match first {
            "=" => {
                let cfa = match rest.split_once('+') {
                    Some(("rsp", depth)) => Cfa::Rsp(depth.parse().unwrap()),
                    Some(("rbp", depth)) => Cfa::Rbp(depth.parse().unwrap()),
                    _ => Cfa::Elsewhere,
                };
                listing.cfas.push((listing.code.len(), cfa));
            }
            "@" => listing.saved.push(rest.parse().unwrap()),
            bytes => listing.code.extend(hex::decode(bytes).unwrap()),
        }
    }
    listing
}

/// Where the code of single listings lies.
pub(crate) const START: u64 = 0x40_1000;

pub(crate) fn rules(listing: &Listing) -> Rules {
    let row = |(at, cfa): &(usize, Cfa)| Row {
        start: START + *at as u64,
        cfa: *cfa,
        saved: [Saved::Same; 6],
        back: Saved::At(-8),
    };
    Rules {
        range: AddressRange::with_length(START, listing.code.len() as u64).unwrap(),
        rows: listing.cfas.iter().map(row).collect(),
        slots: listing.saved.clone(),
        expressions: false,
        signal: false,
        exceptions: None,
    }
}

pub(crate) fn slots(text: &str) -> Slots {
    let listing = listing(text);
    Slots::find(&listing.code, &rules(&listing))
}
