//! A program with `.eh_frame` in memory, by the figures of the Linux Standard Base 5.0, and a stack.

use gdb_leak::memory::RegionKind;
use gdb_leak::source::Thread;
use gdb_leak::source::captured::Captured;
use gdb_leak::source::registers::{Register, Registers};
use gdb_leak::unwind::Cfa;

use crate::assembly::listing;

/// A function that waits in a system call, at its sixth byte.
pub(crate) const WAITS: &str = "
    4883ec08           sub rsp,8
    = rsp+16
    0f05               syscall
    4883c408           add rsp,8
    = rsp+8
    c3                 ret";

pub(crate) const BASE: u64 = 0x5555_0000_0000;
pub(crate) const STACK: u64 = 0x7ffd_0000_0000;
const TABLE: usize = 0x200;
const ENTRIES: usize = 0x1000;
const SITES: usize = 0x4000;
const CODE: usize = 0x6000;
const SIZE: usize = 0x10000;

/// A part of a function with an entry of its own.
#[derive(Clone, Default)]
pub(crate) struct Part {
    listing: &'static str,
    /// Addresses, as they are known when it is placed, where exceptions go on.
    landing_pads: Vec<u64>,
    signal: bool,
    outermost: bool,
}

impl Part {
    pub(crate) fn new(listing: &'static str) -> Self {
        Self { listing, ..Self::default() }
    }

    pub(crate) fn landing_pad(mut self, address: u64) -> Self {
        self.landing_pads.push(address);
        self
    }

    /// Called by the kernel, for a signal.
    pub(crate) fn signal(mut self) -> Self {
        self.signal = true;
        self
    }

    /// Called by nobody.
    pub(crate) fn outermost(mut self) -> Self {
        self.outermost = true;
        self
    }
}

/// Where part number `index` of a program starts.
pub(crate) fn at(index: usize) -> u64 {
    BASE + (CODE + index * 0x100) as u64
}

/// The bytes of a program with these parts, each where [`at`] says.
pub(crate) fn image(parts: &[Part]) -> Vec<u8> {
    let mut bytes = vec![0_u8; SIZE];
    put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
    // ET_DYN, EM_X86_64, version; program headers at 64, 56 bytes each, two of them.
    put(&mut bytes, 16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(&mut bytes, 32, &64_u64.to_le_bytes());
    put(&mut bytes, 52, &[64, 0, 56, 0, 2, 0, 64, 0]);
    segment(&mut bytes, 64, 1, 0, SIZE);
    segment(&mut bytes, 64 + 56, 0x6474_e550, TABLE, 0x100);
    let mut entries = Vec::new();
    let mut pairs = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let start = CODE + index * 0x100;
        let listing = listing(part.listing);
        assert!(listing.code.len() <= 0x100);
        put(&mut bytes, start, &listing.code);
        let sites = SITES + index * 0x40;
        put(&mut bytes, sites, &call_sites(&part.landing_pads, start));
        let augmentation = match (part.signal, part.landing_pads.is_empty()) {
            (true, _) => "zRS",
            (false, true) => "zR",
            (false, false) => "zRL",
        };
        let common = entries.len();
        // Version 1, code in steps of 1, data of -8, the return address is number 16.
        let mut body = vec![0, 0, 0, 0, 1];
        body.extend(augmentation.bytes().chain([0, 1, 0x78, 16]));
        body.extend(if part.landing_pads.is_empty() { vec![1, 0x1b] } else { vec![2, 0x1b, 0x1b] });
        // The CFA is 8 above rsp, the return address right below it.
        body.extend([0x0c, 7, 8, 0x90, 1]);
        entry(&mut entries, body);
        let own = entries.len();
        let distance = |to: usize, from: usize| number(to).wrapping_sub(number(from)).to_le_bytes();
        let mut body = (number(own) + 4 - number(common)).to_le_bytes().to_vec();
        body.extend(distance(start, ENTRIES + own + 8));
        body.extend(number(listing.code.len()).to_le_bytes());
        if part.landing_pads.is_empty() {
            body.push(0);
        } else {
            body.push(4);
            body.extend(distance(sites, ENTRIES + own + 17));
        }
        if part.outermost {
            body.extend([0x07, 16]);
        }
        let mut place = 0;
        for (from, cfa) in &listing.cfas {
            if *from > place {
                body.extend([0x02, u8::try_from(from - place).unwrap()]);
                place = *from;
            }
            match cfa {
                Cfa::Rsp(depth) => body.extend([0x0c, 7, u8::try_from(*depth).unwrap()]),
                Cfa::Rbp(depth) => body.extend([0x0c, 6, u8::try_from(*depth).unwrap()]),
                Cfa::Elsewhere => body.extend([0x0f, 1, 0x30]),
            }
            // rbp is where the frame pointer's prologue pushes it.
            if matches!(cfa, Cfa::Rbp(_)) {
                body.extend([0x86, 2]);
            }
        }
        // rbx is saved by those that say so.
        body.extend(listing.saved.iter().flat_map(|at| [0x83, u8::try_from(-at / 8).unwrap()]));
        entry(&mut entries, body);
        pairs.push((start, ENTRIES + own));
    }
    put(&mut bytes, ENTRIES, &entries);
    put(&mut bytes, TABLE, &[1, 0x1b, 3, 0x3b]);
    put(&mut bytes, TABLE + 8, &number(pairs.len()).to_le_bytes());
    for (index, (start, entry)) in pairs.iter().enumerate() {
        put(&mut bytes, TABLE + 12 + index * 8, &number(start - TABLE).to_le_bytes());
        put(&mut bytes, TABLE + 16 + index * 8, &number(entry - TABLE).to_le_bytes());
    }
    bytes
}

/// A number of four bytes.
fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap()
}

fn put(bytes: &mut [u8], at: usize, written: &[u8]) {
    bytes[at..at + written.len()].copy_from_slice(written);
}

fn segment(bytes: &mut [u8], at: usize, kind: u32, place: usize, size: usize) {
    put(bytes, at, &kind.to_le_bytes());
    for (offset, value) in [(8, place), (16, place), (32, size), (40, size)] {
        put(bytes, at + offset, &(value as u64).to_le_bytes());
    }
}

fn entry(entries: &mut Vec<u8>, mut body: Vec<u8>) {
    body.resize(body.len().next_multiple_of(8) + 4, 0);
    entries.extend(number(body.len()).to_le_bytes());
    entries.extend(body);
}

/// GCC's table: where landing pads are counted from, no types, numbers of four bytes.
fn call_sites(landing_pads: &[u64], start: usize) -> Vec<u8> {
    let mut table = vec![0xff, 0xff, 3, u8::try_from(landing_pads.len() * 13).unwrap()];
    for landing_pad in landing_pads {
        let distance = u32::try_from(landing_pad - BASE).unwrap() - number(start);
        table.extend([0, 0, 0, 0, 1, 0, 0, 0].into_iter().chain(distance.to_le_bytes()).chain([0]));
    }
    table
}

/// The program, and a stack with these words.
pub(crate) fn memory(image: &[u8], stack: &[u64]) -> Captured {
    let stack: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
    Captured::new().with_region(BASE, image, image.len() as u64, RegionKind::File, "/a/program").with_region(
        STACK,
        &stack,
        stack.len() as u64,
        RegionKind::Stack,
        "[stack]",
    )
}

/// A thread that goes on at `pc`, with a stack pointer and a frame pointer.
pub(crate) fn thread(pc: u64, stack_pointer: u64, frame_pointer: u64) -> Thread {
    let register = |(name, value): (&'static str, u64)| Register { name: name.into(), value };
    let general = [("rip", pc), ("rsp", stack_pointer), ("rbp", frame_pointer)].map(register).to_vec();
    Thread {
        id: 1,
        stack_pointer: Some(stack_pointer),
        thread_pointer: None,
        registers: Registers { general, vector: Vec::new() },
    }
}
