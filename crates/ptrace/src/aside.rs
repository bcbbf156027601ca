//! A process of its own for reads that may never return.
//!
//! A file system that another process or machine serves (FUSE, NFS) may not answer, and the
//! kernel then lets neither the thread that reads nor its process end. So a child reads: it is
//! given up when it is late, and neither this process nor a debugger around it waits for it.
//!
//! What was weighed: a thread, which the kernel may not let end (Linux 6.18, `fs/fuse/dev.c`,
//! `request_wait_answer`: once the server has the request nothing interrupts it), so that the
//! process cannot end either; a program of its own, which has to be found, built and started
//! (in gdb there may be no `python3`, and gdb itself takes 0.1 s to start); a forked child that
//! goes on in Rust, which may wait for a lock that a thread held when it was forked. So the child
//! is forked by the bare system call and makes only calls that are safe after that: none
//! allocates, takes a lock or can panic. It has no file of its parent but one end of a socket, is
//! in a session of its own, blocks all signals, sends no signal when it ends, and
//! gdb ignores the end of a process that it does not debug. What remains: as long as it is there it keeps the
//! memory that its parent had, as far as the parent changes it. The child's side is in `serve.rs`.

use std::ffi::c_int;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::serve::{CLOSE, OPEN, READ, READ_SENT, REPLY, WORD, fork, kill, send, waited};

/// The most bytes that one read gives, and more than a path has.
pub const ROOM: usize = 1 << 20;

/// The longest path that the kernel takes; a request with one never fills the socket.
const LONGEST: usize = libc::PATH_MAX as usize;

/// A file that the child has open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its number in the child.
    pub number: u64,
    /// The device that it is on, as `stat(2)` has it.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Type of file and permissions.
    pub mode: u32,
    /// The type of its file system, as `statfs(2)` has it.
    pub system: i64,
}

/// The child, from this side.
#[derive(Debug)]
pub struct Aside {
    child: c_int,
    socket: UnixStream,
}

/// Why nothing was read.
#[derive(Debug)]
pub enum Failure {
    /// The system's answer.
    Refused(io::Error),
    /// No answer came in time: the child is of no more use.
    Silent,
    /// The caller does not want to wait any more: as above.
    Unwanted,
    /// The child has ended, which says nothing of the file: another one may answer.
    Gone,
}

impl Aside {
    /// Starts the child.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn start() -> io::Result<Self> {
        let (socket, other) = UnixStream::pair()?;
        // Before the child is there: it may not allocate.
        let mut room = vec![0_u8; ROOM];
        let child = fork(other.as_raw_fd(), &mut room)?;
        Ok(Self { child, socket })
    }

    /// Opens the regular file at `path`; of another one only its type is given.
    ///
    /// # Errors
    ///
    /// `Failure`, after `limit` at the latest, and soon after `wanted` says no.
    pub fn open(
        &mut self,
        path: &[u8],
        limit: Duration,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Opened, Failure> {
        if path.len() >= LONGEST || path.contains(&0) {
            return Err(Failure::Refused(io::ErrorKind::InvalidInput.into()));
        }
        let until = (Instant::now(), limit);
        self.send([OPEN, path.len() as u64, 0, 0], path, None)?;
        let [number, device, inode, length, mode, system] = self.reply(until, wanted)?;
        let (mode, system) =
            (u32::try_from(mode).unwrap_or_default(), i64::from_ne_bytes(system.to_ne_bytes()));
        Ok(Opened { number, device, inode, length, mode, system })
    }

    /// Reads into `bytes`, of which there may be [`ROOM`], from `offset` of an open file.
    ///
    /// # Errors
    ///
    /// As [`Aside::open`].
    pub fn read(
        &mut self,
        file: u64,
        offset: u64,
        bytes: &mut [u8],
        limit: Duration,
        wanted: &dyn Fn() -> bool,
    ) -> Result<usize, Failure> {
        let until = (Instant::now(), limit);
        self.send([READ, file, offset, bytes.len().min(ROOM) as u64], &[], None)?;
        self.take(bytes, until, wanted)
    }

    /// Reads as [`Aside::read`] does, of a file that this process has open.
    ///
    /// # Errors
    ///
    /// As [`Aside::open`].
    pub fn read_of(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: &mut [u8],
        limit: Duration,
        wanted: &dyn Fn() -> bool,
    ) -> Result<usize, Failure> {
        let until = (Instant::now(), limit);
        self.send([READ_SENT, 0, offset, bytes.len().min(ROOM) as u64], &[], Some(file))?;
        self.take(bytes, until, wanted)
    }

    /// Closes an open file.
    ///
    /// # Errors
    ///
    /// As [`Aside::open`].
    pub fn close(&mut self, file: u64, limit: Duration, wanted: &dyn Fn() -> bool) -> Result<(), Failure> {
        let until = (Instant::now(), limit);
        self.send([CLOSE, file, 0, 0], &[], None)?;
        self.reply(until, wanted).map(|_| ())
    }

    /// Returns whether the child has ended. Ask after giving it up, so that no zombie stays.
    #[must_use]
    pub fn ended(&self) -> bool {
        waited(self.child)
    }

    /// Kills the child, as far as the kernel lets it end.
    pub fn kill(&self) {
        kill(self.child);
    }

    fn send(&mut self, request: [u64; 4], more: &[u8], file: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
        let mut bytes: Vec<u8> = request.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(more);
        let mut rest = bytes.as_slice();
        let mut file = file.map(|file| file.as_raw_fd());
        while !rest.is_empty() {
            match send(self.socket.as_raw_fd(), rest, file) {
                Ok(sent) => (rest, file) = (rest.get(sent..).unwrap_or_default(), None),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Failure::Gone),
            }
        }
        Ok(())
    }

    /// The bytes of a reply, which go to the start of `bytes`.
    fn take(
        &mut self,
        bytes: &mut [u8],
        until: (Instant, Duration),
        wanted: &dyn Fn() -> bool,
    ) -> Result<usize, Failure> {
        let [read, ..] = self.reply(until, wanted)?;
        let read = usize::try_from(read).unwrap_or(usize::MAX);
        let bytes = bytes.get_mut(..read).ok_or(Failure::Gone)?;
        self.receive(bytes, until, wanted)?;
        Ok(read)
    }

    fn reply(&mut self, until: (Instant, Duration), wanted: &dyn Fn() -> bool) -> Result<[u64; 6], Failure> {
        let mut bytes = [0; REPLY];
        self.receive(&mut bytes, until, wanted)?;
        let mut words =
            bytes.chunks_exact(WORD).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
        let status = words.next().unwrap_or_default();
        if status != 0 {
            let number = i32::try_from(status).unwrap_or(libc::EIO);
            return Err(Failure::Refused(io::Error::from_raw_os_error(number)));
        }
        Ok(std::array::from_fn(|_| words.next().unwrap_or_default()))
    }

    fn receive(
        &mut self,
        mut bytes: &mut [u8],
        until: (Instant, Duration),
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        const ASK: Duration = Duration::from_millis(20);
        self.socket.set_read_timeout(Some(ASK)).map_err(|_| Failure::Gone)?;
        while !bytes.is_empty() {
            match self.socket.read(bytes) {
                Ok(0) => return Err(Failure::Gone),
                Ok(read) => bytes = bytes.split_at_mut_checked(read).ok_or(Failure::Gone)?.1,
                Err(cause) => match cause.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
                        if !wanted() {
                            return Err(Failure::Unwanted);
                        }
                        if until.0.elapsed() >= until.1 {
                            return Err(Failure::Silent);
                        }
                    }
                    _ => return Err(Failure::Gone),
                },
            }
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.kill();
        let _ = self.ended();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_file_reads_as_it_does_without_the_child() {
        let own = std::env::current_exe().unwrap();
        let whole = std::fs::read(&own).unwrap();
        let mut aside = Aside::start().unwrap();
        let yes = || true;
        let file = aside.open(own.as_os_str().as_encoded_bytes(), LIMIT, &yes).unwrap();
        assert_eq!(file.length, whole.len() as u64);
        let mut bytes = vec![0; ROOM];
        let read = aside.read(file.number, 5, &mut bytes, LIMIT, &yes).unwrap();
        assert_eq!(bytes[..read], whole[5..5 + read]);
        let behind = aside.read(file.number, whole.len() as u64, &mut bytes, LIMIT, &yes).unwrap();
        assert_eq!(behind, 0);
        aside.close(file.number, LIMIT, &yes).unwrap();
        assert!(matches!(aside.read(file.number, 0, &mut bytes, LIMIT, &yes), Err(Failure::Refused(_))));
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let mut aside = Aside::start().unwrap();
        let device = aside.open(b"/dev/zero", LIMIT, &|| true).unwrap();
        assert_eq!((device.number, device.mode & libc::S_IFMT), (u64::MAX, libc::S_IFCHR));
        let missing = aside.open(b"/no/such/file", LIMIT, &|| true);
        assert!(matches!(missing, Err(Failure::Refused(cause)) if cause.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn a_child_that_does_not_answer_is_given_up_and_ends() {
        let mut aside = Aside::start().unwrap();
        // SAFETY: takes two numbers; the child is this process's own.
        unsafe { libc::kill(aside.child, libc::SIGSTOP) };
        let file = aside.open(b"/dev/zero", Duration::from_millis(50), &|| true);
        assert!(matches!(file, Err(Failure::Silent)));
        let asked = Instant::now();
        let unwanted = aside.open(b"/dev/zero", LIMIT, &|| false);
        assert!(matches!(unwanted, Err(Failure::Unwanted)) && asked.elapsed() < LIMIT / 2);
        aside.kill();
        while !aside.ended() {
            assert!(asked.elapsed() < LIMIT, "it goes on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_file_that_is_open_here_is_read_there() {
        let mut aside = Aside::start().unwrap();
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let text = *b"bytes of this process";
        let mut bytes = [0; 21];
        let at = text.as_ptr().addr() as u64;
        for _ in 0..3 {
            bytes.fill(0);
            let read = aside.read_of(memory.as_fd(), at, &mut bytes, LIMIT, &|| true).unwrap();
            assert_eq!((read, &bytes), (text.len(), &text));
        }
        let none = aside.read_of(memory.as_fd(), 0, &mut bytes, LIMIT, &|| true);
        assert!(matches!(none, Err(Failure::Refused(cause)) if cause.raw_os_error() == Some(libc::EIO)));
    }

    #[test]
    fn a_child_outlives_the_thread_that_started_it_and_its_end_is_not_silence() {
        let mut aside = std::thread::spawn(|| Aside::start().unwrap()).join().unwrap();
        assert!(aside.open(b"/dev/zero", LIMIT, &|| true).is_ok());
        // SAFETY: takes two numbers; the child is this process's own.
        unsafe { libc::kill(aside.child, libc::SIGKILL) };
        while !aside.ended() {
            std::thread::yield_now();
        }
        assert!(matches!(aside.open(b"/dev/zero", LIMIT, &|| true), Err(Failure::Gone)));
    }
}
