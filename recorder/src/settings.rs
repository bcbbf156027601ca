//! How to record, as the environment says.

use crate::layout::PAGE;

/// Frames of a stack that are kept unless more or fewer are asked for.
const DEPTH: u64 = 64;
/// The most there is room for while a stack is walked.
pub(crate) const MOST_FRAMES: usize = 255;
/// Memory for recordings unless more or less is asked for.
const MEMORY: u64 = 2 << 30;
/// Less holds nothing of use.
const LEAST_MEMORY: u64 = 8 << 20;
/// Entries and nodes are numbered by 32 bits.
const MOST_MEMORY: u64 = 64 << 30;

/// What was asked for.
pub(crate) struct Settings {
    /// One allocation is recorded for so many bytes; 0: each.
    pub(crate) sample: u64,
    /// Frames kept of a stack.
    pub(crate) depth: usize,
    /// Bytes for blocks and stacks.
    pub(crate) memory: u64,
    /// The one process that is recorded, with whatever it executes; 0: each.
    pub(crate) only: u64,
    /// How much is done of each call, for measuring: 0 nothing, 1 unwinding, 2 naming
    /// the stack as well, 3 all.
    pub(crate) steps: u64,
}

impl Settings {
    /// The settings of this process, from the environment that it was started with.
    ///
    /// Folklore: malloc is called by the loader before libc has its `environ`. The
    /// kernel has the environment from the start; where /proc is missing the
    /// defaults hold.
    pub(crate) fn read() -> Self {
        let mut settings = Self { sample: 0, depth: DEPTH as usize, memory: MEMORY, only: 0, steps: 3 };
        // SAFETY: plain calls, with a name that ends in zero.
        let file = unsafe { libc::open(c"/proc/self/environ".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if file < 0 {
            return settings;
        }
        let mut buffer = [0_u8; PAGE];
        let mut variable = Variable::new();
        loop {
            // SAFETY: the buffer has that many bytes.
            let got = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
            let Ok(got) = usize::try_from(got) else { break };
            if got == 0 {
                break;
            }
            for byte in buffer.iter().take(got) {
                if let Some((name, value)) = variable.add(*byte) {
                    settings.set(name, value);
                }
            }
        }
        // SAFETY: the file was opened above.
        unsafe { libc::close(file) };
        settings
    }

    fn set(&mut self, name: &[u8], value: u64) {
        match name {
            b"SAMPLE" => self.sample = value,
            b"DEPTH" => self.depth = value.clamp(1, MOST_FRAMES as u64) as usize,
            b"MEMORY" => self.memory = value.clamp(LEAST_MEMORY, MOST_MEMORY),
            b"ONLY" => self.only = value,
            b"STEPS" => self.steps = value,
            _ => {}
        }
    }
}

const PREFIX: &[u8] = b"GDB_LEAK_RECORD_";
const ROOM: usize = 48;

/// One variable of the environment, as its bytes come.
struct Variable {
    text: [u8; ROOM],
    length: usize,
}

impl Variable {
    const fn new() -> Self {
        Self { text: [0; ROOM], length: 0 }
    }

    /// The name behind the prefix and the number, once a variable of ours is complete.
    fn add(&mut self, byte: u8) -> Option<(&[u8], u64)> {
        if byte != 0 {
            if let Some(place) = self.text.get_mut(self.length) {
                *place = byte;
            }
            self.length = self.length.saturating_add(1);
            return None;
        }
        let length = core::mem::take(&mut self.length);
        let text = self.text.get(..length)?.strip_prefix(PREFIX)?;
        let equals = text.iter().position(|byte| *byte == b'=')?;
        let (name, value) = text.split_at_checked(equals)?;
        let digits = value.get(1..)?;
        let number = digits.iter().try_fold(0_u64, |sum, digit| {
            let digit = char::from(*digit).to_digit(10)?;
            sum.checked_mul(10)?.checked_add(u64::from(digit))
        });
        Some((name, number.filter(|_| !digits.is_empty())?))
    }
}

#[cfg(test)]
mod tests {
    use super::Variable;

    fn found(text: &[u8]) -> Vec<(Vec<u8>, u64)> {
        let mut variable = Variable::new();
        let mut all = Vec::new();
        for byte in text {
            if let Some((name, value)) = variable.add(*byte) {
                all.push((name.to_vec(), value));
            }
        }
        all
    }

    #[test]
    fn only_whole_numbers_of_our_own_variables_count() {
        let long = [b"X=".as_slice(), &[b'y'; 5000], b"\0GDB_LEAK_RECORD_DEPTH=7\0"].concat();
        assert_eq!(found(&long), [(b"DEPTH".to_vec(), 7)]);
        assert_eq!(found(b"GDB_LEAK_RECORD_SAMPLE=512K\0GDB_LEAK_RECORD_SAMPLE=\0PATH=/\0"), []);
        assert_eq!(found(b"GDB_LEAK_RECORD_SAMPLE=99999999999999999999\0\0\0"), []);
    }
}
