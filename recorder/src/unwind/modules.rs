//! The modules that stacks lead through, and where their rules of unwinding are.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::layout::{Module, PAGE, STILL};
use crate::lock::Lock;
use crate::memory::{Area, Errno, Table};
use crate::real;

/// Where the rules of a module are: the recorder's own part of what is known of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Tables {
    /// Its `.eh_frame_hdr`; 0: it has none.
    pub(crate) header: u64,
    /// The end of the segment that this lies in.
    pub(crate) end: u64,
    /// The program headers in memory, their number, and what is to be added to their addresses.
    headers: u64,
    count: u64,
    bias: u64,
    /// Whether it is the loader.
    pub(crate) loader: bool,
}

impl Tables {
    /// The end of the segment that holds an address.
    pub(crate) fn segment_end(&self, address: u64) -> Option<u64> {
        // SAFETY: the loader's own headers, of a module that is loaded.
        let headers = unsafe {
            core::slice::from_raw_parts(self.headers as *const libc::Elf64_Phdr, self.count as usize)
        };
        segment_of(headers, self.bias, address)
    }
}

fn segment_of(headers: &[libc::Elf64_Phdr], bias: u64, address: u64) -> Option<u64> {
    headers.iter().filter(|header| header.p_type == libc::PT_LOAD).find_map(|header| {
        let start = bias.wrapping_add(header.p_vaddr);
        let end = start.checked_add(header.p_filesz)?;
        (start..end).contains(&address).then_some(end)
    })
}

pub(crate) struct Modules {
    area: Area,
    names: Area,
    tables: Table,
    pub(crate) lock: Lock,
    generation: *const AtomicU32,
}

impl Modules {
    /// Bytes of the table that so many modules need.
    pub(crate) fn table_bytes(capacity: u64) -> usize {
        capacity as usize * size_of::<Tables>()
    }

    pub(crate) const fn new(area: Area, names: Area, tables: Table, generation: *const AtomicU32) -> Self {
        Self { area, names, tables, lock: Lock::new(), generation }
    }

    /// How often modules were unloaded.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        // SAFETY: it points into the header, which stays.
        unsafe { (*self.generation).load(Ordering::Relaxed) }
    }

    /// The tables of the module that holds an address, which is added if it is new.
    pub(crate) fn tables(&self, address: u64) -> Option<Tables> {
        let errno = Errno::keep();
        let found = self.lock.with(|| {
            let known = self.known(address).or_else(|| {
                self.add(address);
                self.known(address)
            })?;
            // SAFETY: each module has tables of the same number.
            Some(unsafe { *self.tables.at::<Tables>(known) })
        });
        errno.restore();
        found
    }

    fn module(&self, number: usize) -> &Module {
        // SAFETY: it was handed out.
        unsafe { &*self.area.at::<Module>(number) }
    }

    fn known(&self, address: u64) -> Option<usize> {
        (0..self.area.used() as usize).find(|number| {
            let module = self.module(*number);
            (module.start..module.end).contains(&address) && module.until.load(Ordering::Relaxed) == STILL
        })
    }

    fn add(&self, address: u64) {
        if let Some(found) = loaded(address) {
            found.and_then(|found| self.keep(&found));
            return;
        }
        let mut search = Search { modules: self, address };
        // SAFETY: the callback gets the address of `search`, which lives across the call.
        unsafe { libc::dl_iterate_phdr(Some(add_if_it_holds), (&raw mut search).cast()) };
    }

    /// Notes which modules are gone; `forget` forgets what was known of their code, where
    /// stacks led through one of them.
    pub(crate) fn unloaded(&self, forget: impl FnOnce()) {
        self.lock.with(|| {
            let mut gone = false;
            for number in 0..self.area.used() as usize {
                let module = self.module(number);
                if module.until.load(Ordering::Relaxed) != STILL {
                    continue;
                }
                let mut search = Same { start: module.start, bias: module.bias, found: false };
                match loaded(module.start) {
                    Some(there) => search.found = there.is_some_and(|there| search.is(&there)),
                    // SAFETY: as above.
                    None => unsafe {
                        libc::dl_iterate_phdr(Some(is_same), (&raw mut search).cast());
                    },
                }
                if !search.found {
                    module.until.store(self.generation() + 1, Ordering::Relaxed);
                    gone = true;
                }
            }
            if gone {
                // First: whoever sees the new generation must not see old rules.
                forget();
                // SAFETY: it points into the header, which stays.
                unsafe { (*self.generation).fetch_add(1, Ordering::Release) };
            }
        });
    }

    /// Keeps the name of a module: its place in the area of names, and its length.
    ///
    /// The program has none in the loader's list: it is what the system says.
    fn name(&self, told: &[u8]) -> Option<(u32, u32)> {
        let room = if told.is_empty() { PAGE } else { told.len() };
        let at = self.names.take(room as u64)?;
        let place = self.names.at::<u8>(at as usize);
        let length = if told.is_empty() {
            // SAFETY: that many bytes were handed out there.
            unsafe { libc::readlink(c"/proc/self/exe".as_ptr(), place.cast(), room) }
        } else {
            // SAFETY: as above, and the name has as many.
            unsafe { core::ptr::copy_nonoverlapping(told.as_ptr(), place, room) };
            room as isize
        };
        Some((u32::try_from(at).ok()?, u32::try_from(length.max(0)).ok()?))
    }

    fn keep(&self, found: &Loaded<'_>) -> Option<()> {
        let Loaded { bias, headers, .. } = *found;
        let start = found.start()?;
        let end = found.segments().map(|header| header.p_vaddr.saturating_add(header.p_memsz)).max()?;
        // SAFETY: the loader's own name, which ends in zero.
        let told = unsafe { CStr::from_ptr(found.name) }.to_bytes();
        let (name_offset, name_bytes) = self.name(told)?;
        let (build_id, build_id_bytes) = build_id(headers, bias);
        let header = headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME);
        let at = header.map(|header| bias.wrapping_add(header.p_vaddr));
        let within = at.and_then(|at| segment_of(headers, bias, at));
        // Tables first: each module has some, and a number has them at the same place.
        self.tables.take(size_of::<Tables>())?;
        let number = self.area.take(1)? as usize;
        // SAFETY: both have room for the number handed out, and are the recorder's own.
        unsafe {
            self.tables.at::<Tables>(number).write(Tables {
                header: if within.is_some() { at.unwrap_or(0) } else { 0 },
                end: within.unwrap_or(0),
                headers: headers.as_ptr() as u64,
                count: headers.len() as u64,
                bias,
                loader: bias != 0 && bias == libc::getauxval(libc::AT_BASE),
            });
            self.area.at::<Module>(number).write(Module {
                start,
                end: bias.wrapping_add(end),
                bias,
                name_offset,
                name_bytes,
                build_id,
                build_id_bytes,
                since: self.generation(),
                until: AtomicU32::new(STILL),
            });
        }
        Some(())
    }

    pub(crate) fn take_all(&self) {
        self.lock.take();
        self.area.lock.take();
        self.names.lock.take();
        self.tables.lock.take();
    }

    pub(crate) fn leave_all(&self) {
        self.tables.lock.leave();
        self.names.lock.leave();
        self.area.lock.leave();
        self.lock.leave();
    }
}

const NT_GNU_BUILD_ID: u32 = 3;

/// The build-id among the notes of a module, and its length; 0 where it is longer than there is room.
fn build_id(headers: &[libc::Elf64_Phdr], bias: u64) -> ([u8; 20], u32) {
    let mut kept = [0_u8; 20];
    for header in headers.iter().filter(|header| header.p_type == libc::PT_NOTE) {
        let start = bias.wrapping_add(header.p_vaddr);
        // Notes that are not loaded are not in memory.
        if segment_of(headers, bias, start).is_none_or(|end| end - start < header.p_filesz) {
            continue;
        }
        // SAFETY: within a segment of a module that the loader has just told of.
        let notes = unsafe { core::slice::from_raw_parts(start as *const u8, header.p_filesz as usize) };
        if let Some(found) = note(notes, header.p_align) {
            if let Some(room) = kept.get_mut(..found.len()) {
                room.copy_from_slice(found);
                return (kept, found.len() as u32);
            }
            return (kept, 0);
        }
    }
    (kept, 0)
}

/// The build-id in these notes.
fn note(notes: &[u8], alignment: u64) -> Option<&[u8]> {
    let alignment = if alignment == 8 { 8 } else { 4 };
    let word = |at: usize| {
        let bytes = notes.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?) as usize)
    };
    let mut at = 0_usize;
    loop {
        let (name, content, kind) = (word(at)?, word(at + 4)?, word(at + 8)?);
        let start = at + 12;
        let described = start.checked_add(name)?.checked_next_multiple_of(alignment)?;
        let end = described.checked_add(content)?;
        if kind == NT_GNU_BUILD_ID as usize && notes.get(start..start.checked_add(name)?)? == b"GNU\0" {
            return notes.get(described..end);
        }
        at = end.checked_next_multiple_of(alignment)?;
    }
}

/// A module as the loader tells it.
#[derive(Clone, Copy)]
struct Loaded<'m> {
    bias: u64,
    name: *const c_char,
    headers: &'m [libc::Elf64_Phdr],
}

impl<'m> Loaded<'m> {
    fn segments(self) -> impl Iterator<Item = &'m libc::Elf64_Phdr> {
        self.headers.iter().filter(|header| header.p_type == libc::PT_LOAD)
    }

    /// Where it begins in memory.
    fn start(&self) -> Option<u64> {
        let first = self.segments().map(|header| header.p_vaddr).min()?;
        Some(self.bias.wrapping_add(first & !(PAGE as u64 - 1)))
    }
}

/// The module that holds an address: `None` where the loader must be asked by `dl_iterate_phdr`.
///
/// That one takes the loader's lock, which a thread that allocates may hold (in a callback of
/// its own), and which stays taken in a child where another thread held it. So it is not
/// asked where glibc has a way without (2.35).
#[expect(clippy::option_option, reason = "as real::object")]
fn loaded<'m>(address: u64) -> Option<Option<Loaded<'m>>> {
    let Some(object) = real::object(address)? else { return Some(None) };
    // SAFETY: a module that is loaded, as the loader has just told; it begins with its first segment.
    unsafe {
        let (bias, name) = *object.link_map;
        let file = &*(object.start as *const libc::Elf64_Ehdr);
        let size = usize::from(file.e_phnum) * size_of::<libc::Elf64_Phdr>();
        let at = file.e_phoff as usize;
        // The first page has the program headers, except in files that are linked in an unusual way.
        let usual = file.e_ident.starts_with(b"\x7fELF")
            && usize::from(file.e_phentsize) == size_of::<libc::Elf64_Phdr>()
            && at.checked_add(size).is_some_and(|end| end <= PAGE);
        if !usual {
            return None;
        }
        let headers =
            core::slice::from_raw_parts((object.start as usize + at) as *const _, usize::from(file.e_phnum));
        Some(Some(Loaded { bias, name, headers }))
    }
}

struct Search<'m> {
    modules: &'m Modules,
    address: u64,
}

/// What the loader tells.
///
/// # Safety
///
/// `info` is what `dl_iterate_phdr` gives a callback.
unsafe fn told<'m>(info: *const libc::dl_phdr_info) -> Loaded<'m> {
    // SAFETY: by the caller's word.
    unsafe {
        let info = &*info;
        let headers = if info.dlpi_phdr.is_null() {
            &[]
        } else {
            core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum))
        };
        Loaded { bias: info.dlpi_addr, name: info.dlpi_name, headers }
    }
}

unsafe extern "C" fn add_if_it_holds(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
    // SAFETY: the loader gives a module, and `search` as `add` passed it.
    unsafe {
        let search = &*search.cast::<Search<'_>>();
        let found = told(info);
        let holds = found.segments().any(|header| {
            search.address.wrapping_sub(found.bias.wrapping_add(header.p_vaddr)) < header.p_memsz
        });
        if holds {
            search.modules.keep(&found);
        }
        c_int::from(holds)
    }
}

struct Same {
    start: u64,
    bias: u64,
    found: bool,
}

impl Same {
    fn is(&self, other: &Loaded<'_>) -> bool {
        other.bias == self.bias && other.start() == Some(self.start)
    }
}

unsafe extern "C" fn is_same(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
    // SAFETY: as above, from `unloaded`.
    unsafe {
        let search = &mut *search.cast::<Same>();
        search.found = search.is(&told(info));
        c_int::from(search.found)
    }
}
