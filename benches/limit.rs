//! The machine's own limits, for `benches/bench.py` to put beside the commands.
//!
//! ```text
//! limit read CORE START LENGTH   goes over the core's mapping twice, all threads, summing words
//! limit write FILE LENGTH        writes so many bytes from memory to a new file, then removes it
//! ```
//!
//! Prints one line of JSON: seconds by the clock and processor seconds of each
//! pass. `read` maps the file as the product does, so that its first pass is
//! what touching every page for the first time costs, the second what reading
//! mapped memory costs.

#![allow(clippy::print_stdout, reason = "a program's answer goes to standard output")]

use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use gdb_leak::memory::{Buffer, Memory};
use gdb_leak::range::AddressRange;
use gdb_leak::source::{self, Files};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rayon::prelude::{ParallelIterator, ParallelSlice};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["read", core, start, length] => read(Path::new(core), number(start)?, number(length)?),
        ["write", file, length] => write(Path::new(file), usize::try_from(number(length)?)?),
        // `cargo bench` runs it without words of its own.
        [] => Ok(()),
        _ => Err("usage: limit read CORE START LENGTH | limit write FILE LENGTH".into()),
    }
}

fn number(text: &str) -> Result<u64, Box<dyn Error>> {
    Ok(text.parse()?)
}

/// Sums the words of a range of a core, twice.
fn read(core: &Path, start: u64, length: u64) -> Result<(), Box<dyn Error>> {
    let memory = source::open_file(core, Files::default())?.memory;
    rayon::broadcast(|_| ());
    let first = timed(|| sum(memory.as_ref(), start, length))?;
    let second = timed(|| sum(memory.as_ref(), start, length))?;
    println!("[{first}, {second}]");
    Ok(())
}

/// The sum of all words, so that none can be left out.
fn sum(memory: &dyn Memory, start: u64, length: u64) -> Result<(), Box<dyn Error>> {
    const CHUNK: usize = 1 << 20;
    let mut buffer = Buffer::default();
    let view = memory.view(AddressRange::with_length(start, length)?, &mut buffer);
    if view.bytes.len() as u64 != length {
        return Err("the range is not one piece of the mapping".into());
    }
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    let words = |chunk: &[u8]| chunk.chunks_exact(8).map(word).fold(0, u64::wrapping_add);
    black_box(view.bytes.par_chunks(CHUNK).map(words).reduce(|| 0, u64::wrapping_add));
    Ok(())
}

/// Writes a file from memory that was touched before.
fn write(path: &Path, length: usize) -> Result<(), Box<dyn Error>> {
    let bytes = vec![0x5a_u8; length];
    let written = timed(|| {
        let mut file = File::create_new(path)?;
        file.write_all(&bytes)?;
        Ok(())
    });
    fs::remove_file(path)?;
    println!("[{}]", written?);
    Ok(())
}

/// What the work took: `[seconds, processor seconds]`.
fn timed(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<String, Box<dyn Error>> {
    let (begun, used) = (Instant::now(), processor_seconds()?);
    work()?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(format!("[{seconds}, {}]", processor_seconds()? - used))
}

/// User and system time of this process so far, all threads.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let own = usage.user_time().num_microseconds();
    let both = own.saturating_add(usage.system_time().num_microseconds());
    Ok(Duration::from_micros(both.try_into()?).as_secs_f64())
}
