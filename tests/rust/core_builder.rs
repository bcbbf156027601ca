//! Builds core files from the ELF specification's figures, without the crate's own layouts.

/// What kind of machine the core is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) wide: bool,
    pub(crate) big: bool,
    pub(crate) number: u16,
}

pub(crate) const X86_64: Machine = Machine { wide: true, big: false, number: 62 };
pub(crate) const I386: Machine = Machine { wide: false, big: false, number: 3 };
pub(crate) const S390X: Machine = Machine { wide: true, big: true, number: 22 };
pub(crate) const POWERPC: Machine = Machine { wide: false, big: true, number: 20 };
/// x86-64 with pointers of four bytes.
pub(crate) const X32: Machine = Machine { wide: false, big: false, number: 62 };
pub(crate) const AARCH64: Machine = Machine { wide: true, big: false, number: 183 };
pub(crate) const ARM: Machine = Machine { wide: false, big: false, number: 40 };
pub(crate) const POWERPC64: Machine = Machine { wide: true, big: true, number: 21 };
pub(crate) const RISCV: Machine = Machine { wide: true, big: false, number: 243 };

/// One `PT_LOAD`: address, flags (4 read, 2 write, 1 execute), bytes saved, size in memory.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: u64,
    pub(crate) flags: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) size: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Builder {
    pub(crate) machine: Machine,
    pub(crate) loads: Vec<Load>,
    pub(crate) notes: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub(crate) notes_last: bool,
    pub(crate) extended_count: bool,
    pub(crate) align: u64,
}

impl Builder {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            loads: Vec::new(),
            notes: Vec::new(),
            notes_last: false,
            extended_count: false,
            align: 4096,
        }
    }

    pub(crate) fn load(mut self, address: u64, flags: u32, bytes: &[u8], size: u64) -> Self {
        self.loads.push(Load { address, flags, bytes: bytes.to_vec(), size });
        self
    }

    pub(crate) fn note(mut self, owner: &str, kind: u32, bytes: &[u8]) -> Self {
        let mut owner = owner.as_bytes().to_vec();
        owner.push(0);
        self.notes.push((owner, kind, bytes.to_vec()));
        self
    }

    /// `NT_FILE` with these mappings: start, end, offset in pages of 4096, path.
    pub(crate) fn files(self, files: &[(u64, u64, u64, &str)]) -> Self {
        let mut out = Vec::new();
        self.word(&mut out, files.len() as u64);
        self.word(&mut out, 4096);
        for (start, end, offset, _) in files {
            for word in [start, end, offset] {
                self.word(&mut out, *word);
            }
        }
        for (.., path) in files {
            out.extend_from_slice(path.as_bytes());
            out.push(0);
        }
        self.note("CORE", 0x4649_4c45, &out)
    }

    /// `NT_AUXV` with these entries.
    pub(crate) fn auxiliary(self, entries: &[(u64, u64)]) -> Self {
        let mut out = Vec::new();
        for (kind, value) in entries.iter().chain([&(0, 0)]) {
            self.word(&mut out, *kind);
            self.word(&mut out, *value);
        }
        self.note("CORE", 6, &out)
    }

    pub(crate) fn word(&self, out: &mut Vec<u8>, value: u64) {
        if self.machine.wide { self.number(out, value, 8) } else { self.number(out, value, 4) }
    }

    fn number(&self, out: &mut Vec<u8>, value: u64, size: usize) {
        let big = value.to_be_bytes();
        let mut bytes = big[8 - size..].to_vec();
        if !self.machine.big {
            bytes.reverse();
        }
        out.extend_from_slice(&bytes);
    }

    /// The whole file.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for (owner, kind, bytes) in &self.notes {
            for value in [owner.len() as u64, bytes.len() as u64, u64::from(*kind)] {
                self.number(&mut notes, value, 4);
            }
            for part in [owner, bytes] {
                notes.extend_from_slice(part);
                notes.resize(notes.len().next_multiple_of(4), 0);
            }
        }
        let (header, entry, section) = if self.machine.wide { (64, 56, 64) } else { (52, 32, 40) };
        let with_notes = usize::from(!notes.is_empty());
        let count = self.loads.len() + with_notes;
        let table_end = header + entry * count;
        let section_at = table_end;
        let mut at = if self.extended_count { table_end + section } else { table_end } as u64;
        let mut place = |length: usize, align: u64| {
            at = at.next_multiple_of(align);
            let offset = at;
            at += length as u64;
            offset
        };
        let early_notes = if self.notes_last { 0 } else { place(notes.len(), 4) };
        let offsets: Vec<u64> = self.loads.iter().map(|load| place(load.bytes.len(), self.align)).collect();
        let notes_at = if self.notes_last { place(notes.len(), 4) } else { early_notes };

        let mut out = vec![0x7f, b'E', b'L', b'F'];
        out.extend([if self.machine.wide { 2 } else { 1 }, if self.machine.big { 2 } else { 1 }, 1, 0]);
        out.resize(16, 0);
        self.number(&mut out, 4, 2); // e_type: a core
        self.number(&mut out, self.machine.number.into(), 2);
        self.number(&mut out, 1, 4); // e_version
        self.word(&mut out, 0); // e_entry
        self.word(&mut out, header as u64); // e_phoff
        self.word(&mut out, if self.extended_count { section_at as u64 } else { 0 }); // e_shoff
        self.number(&mut out, 0, 4); // e_flags
        let listed = if self.extended_count { 0xffff } else { count as u64 };
        let sections = u64::from(self.extended_count);
        for value in [header as u64, entry as u64, listed, section as u64, sections, 0] {
            self.number(&mut out, value, 2);
        }
        let mut program_header =
            |kind: u64, flags: u32, offset: u64, address: u64, file: u64, memory: u64, align: u64| {
                let flags = u64::from(flags);
                self.number(&mut out, kind, 4);
                if self.machine.wide {
                    self.number(&mut out, flags, 4);
                }
                for value in [offset, address, 0, file, memory] {
                    self.word(&mut out, value);
                }
                if !self.machine.wide {
                    self.number(&mut out, flags, 4);
                }
                self.word(&mut out, align);
            };
        if with_notes == 1 {
            program_header(4, 0, notes_at, 0, notes.len() as u64, 0, 4);
        }
        for (load, offset) in self.loads.iter().zip(&offsets) {
            program_header(
                1,
                load.flags,
                *offset,
                load.address,
                load.bytes.len() as u64,
                load.size,
                self.align,
            );
        }
        if self.extended_count {
            // Section 0 holds the count of program headers in sh_info.
            let mut info = Vec::new();
            self.number(&mut info, 0, 8);
            for _ in 0..4 {
                self.word(&mut info, 0);
            }
            self.number(&mut info, 0, 4);
            self.number(&mut info, count as u64, 4);
            info.resize(section, 0);
            out.extend_from_slice(&info);
        }
        let mut put = |offset: u64, bytes: &[u8]| {
            let end = offset as usize + bytes.len();
            out.resize(out.len().max(end), 0);
            out[offset as usize..end].copy_from_slice(bytes);
        };
        put(notes_at, &notes);
        for (load, offset) in self.loads.iter().zip(&offsets) {
            put(*offset, &load.bytes);
        }
        out
    }
}
