//! Addresses where a program is to be held, with no byte of it changed where the machine can.

use nix::errno::Errno;
use nix::libc::c_long;
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::machine;

/// Addresses that are waited for.
#[derive(Debug, Default)]
pub(super) struct Breakpoint {
    addresses: Vec<u64>,
    /// The words that were there before, where a trap had to be written into the program.
    written: Vec<(u64, c_long)>,
}

impl Breakpoint {
    /// Waits for these addresses, in the held `thread` of a process with no other.
    pub(super) fn new(thread: i32, addresses: Vec<u64>) -> Result<Self, Errno> {
        let mut made = Self { addresses, written: Vec::new() };
        // Folklore: some virtual machines and sandboxes have no debug registers.
        if machine::watch(thread, &made.addresses).is_err() {
            made.write(thread)?;
        }
        Ok(made)
    }

    /// Whether anything is waited for.
    pub(super) fn active(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Waits in another thread, too, which is held.
    pub(super) fn extend(&self, thread: i32) {
        // A thread that is gone needs none.
        if self.active() && self.written.is_empty() {
            let _ = machine::watch(thread, &self.addresses);
        }
    }

    /// Whether the thread, held with `SIGTRAP`, is at one of the addresses; it stands before it then.
    pub(super) fn reached(&self, thread: i32) -> bool {
        let Some(counter) = machine::program_counter(thread) else { return false };
        if self.written.is_empty() {
            return machine::breaks(counter, &self.addresses);
        }
        let before = counter.wrapping_sub(machine::TRAP_BYTES);
        let ours = self.written.iter().any(|(address, _)| *address == before);
        ours && machine::set_program_counter(thread, before).is_ok()
    }

    /// Waits no more, in this held thread.
    pub(super) fn leave(&self, thread: i32) {
        if self.active() && self.written.is_empty() {
            let _ = machine::watch(thread, &[]);
        }
    }

    /// Gives the program its bytes back, through a held thread; needed once.
    pub(super) fn restore(&mut self, thread: i32) {
        for (address, word) in self.written.drain(..) {
            let _ = put(thread, address, word);
        }
        self.addresses.clear();
    }

    fn write(&mut self, thread: i32) -> Result<(), Errno> {
        for address in &self.addresses {
            let word = ptrace::read(Pid::from_raw(thread), place(*address))?;
            put(thread, *address, machine::trapping(word))?;
            self.written.push((*address, word));
        }
        Ok(())
    }
}

fn put(thread: i32, address: u64, word: c_long) -> Result<(), Errno> {
    ptrace::write(Pid::from_raw(thread), place(address), word)
}

fn place(address: u64) -> ptrace::AddressType {
    std::ptr::without_provenance_mut(usize::try_from(address).unwrap_or_default())
}
