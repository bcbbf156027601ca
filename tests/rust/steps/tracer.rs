//! Steps through a program's calls of malloc, and says where what the walker reads has changed.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gdb_leak::memory::RegionKind;
use gdb_leak::source::Thread;
use gdb_leak::source::registers::{Register, Registers};
use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register as Name,
};
use nix::libc::user_regs_struct;
use nix::sys::personality::{self, Persona};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::mirror::Mirror;

/// What malloc's own code may lie away from its two main functions, in bytes.
const NEAR: u64 = 0x6000;

/// What a breakpoint of the fixture says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    Ready { table: u64, entries: u64 },
    Begin { entry: u64, call: u64 },
    End,
}

/// Where the system puts the memory of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Addresses {
    /// Where it did the last time: what comes next is the same, too.
    Same,
    /// Anywhere, as it does for all programs.
    Random,
}

pub(crate) struct Tracer {
    child: Child,
    pid: Pid,
    /// The thread that is stepped.
    pub(crate) thread: Pid,
    pub(crate) registers: user_regs_struct,
    pub(crate) mirror: Mirror,
    /// Instructions by address.
    decoded: HashMap<u64, Option<Instruction>>,
    information: InstructionInfoFactory,
    /// Control blocks of all threads that were seen.
    pointers: BTreeMap<i32, u64>,
    /// What changed since the last judgement, far from malloc's own code.
    changed: bool,
    pub(crate) stops: u64,
    /// Where malloc's own code is, once it is known.
    near: Option<(u64, u64)>,
}

/// What happened when a thread was let go on by one instruction.
pub(crate) enum Step {
    /// Memory that the walker may read has changed.
    Changed,
    Same,
    /// The call is over.
    Over,
    /// The thread is.
    Ended,
}

impl Tracer {
    pub(crate) fn start(program: &Path, words: &[&str], addresses: Addresses) -> Self {
        // A child has this thread's. Some containers do not allow another one.
        let own = personality::get().unwrap();
        if addresses == Addresses::Same {
            let _ = personality::set(own | Persona::ADDR_NO_RANDOMIZE);
        }
        let mut child = Command::new(program).args(words).env_clear().stdin(Stdio::piped()).spawn().unwrap();
        let _ = personality::set(own);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        // Until it is in its own code, it is this program.
        while std::fs::read_link(format!("/proc/{pid}/exe")).ok().as_deref() != Some(program) {
            std::thread::yield_now();
        }
        ptrace::seize(pid, Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL).unwrap();
        child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        let mirror = Mirror::new(pid.as_raw());
        Self {
            child,
            pid,
            thread: pid,
            registers: ptrace_registers(),
            mirror,
            decoded: HashMap::new(),
            information: InstructionInfoFactory::new(),
            pointers: BTreeMap::new(),
            changed: false,
            stops: 0,
            near: None,
        }
    }

    /// Lets all go on up to the next breakpoint; `None` when the program has ended.
    pub(crate) fn next(&mut self) -> Option<Mark> {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Ok(WaitStatus::Stopped(thread, Signal::SIGTRAP)) => {
                    self.thread = thread;
                    self.registers = ptrace::getregs(thread).unwrap();
                    self.pointers.insert(thread.as_raw(), self.registers.fs_base);
                    let (what, first, second) = (self.registers.rax, self.registers.rdi, self.registers.rsi);
                    return Some(match what {
                        1 => Mark::Ready { table: first, entries: second },
                        2 => Mark::Begin { entry: first, call: second },
                        _ => Mark::End,
                    });
                }
                Ok(WaitStatus::PtraceEvent(thread, _, _)) => ptrace::cont(thread, None).unwrap(),
                Ok(WaitStatus::Stopped(thread, signal)) => {
                    panic!("thread {thread} stopped by {signal}");
                }
                Ok(WaitStatus::Exited(thread, status)) => {
                    if thread == self.pid {
                        assert_eq!(status, 0);
                        self.child.wait().ok();
                        return None;
                    }
                }
                Ok(other) => panic!("{other:?}"),
                Err(cause) => panic!("{cause}"),
            }
        }
    }

    pub(crate) fn go(&self) {
        ptrace::cont(self.thread, None).unwrap();
    }

    /// The memory as it is now.
    pub(crate) fn look(&mut self) {
        self.mirror.refresh();
    }

    /// One instruction of the thread that is stepped.
    pub(crate) fn step(&mut self) -> Step {
        let at = self.registers.rip;
        let instruction = self.instruction(at);
        let Some(instruction) = instruction else { panic!("no instruction at {at:#x}") };
        if instruction.mnemonic() == Mnemonic::Int3 {
            return Step::Over;
        }
        let writes = self.writes(&instruction);
        self.stops += 1;
        let before = self.registers;
        loop {
            ptrace::step(self.thread, None).unwrap();
            match waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                WaitStatus::Exited(..) => return Step::Ended,
                other => panic!("{other:?}"),
            }
            self.registers = ptrace::getregs(self.thread).unwrap();
            // A string instruction counts as one.
            if self.registers.rip != at || !repeats(&instruction) {
                break;
            }
        }
        let mut changed = false;
        if instruction.mnemonic() == Mnemonic::Syscall {
            // brk, mmap, munmap, mremap, mprotect, madvise
            if [12, 9, 11, 25, 10, 28].contains(&before.rax) {
                self.mirror.refresh();
                changed = true;
            }
        } else if repeats(&instruction) {
            let start = before.rdi.min(self.registers.rdi);
            let end = before.rdi.max(self.registers.rdi);
            changed = self.update(start, usize::try_from(end - start).unwrap() + 8);
        } else {
            for (address, length) in writes {
                changed |= self.update(address, length);
            }
        }
        self.changed |= changed;
        let near = self.near.is_none_or(|(start, end)| (start..end).contains(&self.registers.rip));
        if self.changed && (near || instruction.mnemonic() == Mnemonic::Syscall) {
            self.changed = false;
            return Step::Changed;
        }
        Step::Same
    }

    /// Takes what the call enters first for malloc's own code.
    pub(crate) fn near(&mut self, place: u64) {
        let (start, end) = self.near.unwrap_or((u64::MAX, 0));
        self.near = Some((start.min(place - NEAR), end.max(place + NEAR)));
    }

    fn update(&mut self, address: u64, length: usize) -> bool {
        let stack = matches!(self.mirror.kind(address), Some(RegionKind::Stack | RegionKind::ThreadStack));
        let changed = self.mirror.update(address, length);
        // Where a heap of an arena may start, what the region is may have changed too.
        let begins =
            changed && address % (1 << 20) < 64 && self.mirror.kind(address) != Some(RegionKind::Heap);
        if begins {
            self.mirror.refresh();
        }
        // What lies below the control block is the thread's stack; its variables are no part of it.
        let own = (self.registers.fs_base - 0x1000..self.registers.fs_base + 0x1000).contains(&address);
        changed && (!stack || own)
    }

    fn instruction(&mut self, at: u64) -> Option<Instruction> {
        if let Some(known) = self.decoded.get(&at) {
            return *known;
        }
        let code = self.mirror.code(at);
        let mut decoder = Decoder::with_ip(64, &code, at, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let instruction = (!instruction.is_invalid()).then_some(instruction);
        self.decoded.insert(at, instruction);
        instruction
    }

    /// Where the instruction writes, and how many bytes.
    fn writes(&mut self, instruction: &Instruction) -> Vec<(u64, usize)> {
        let registers = self.registers;
        let information = self.information.info(instruction);
        let written = |access| {
            matches!(
                access,
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
        };
        let memory = information.used_memory().iter().filter(|memory| written(memory.access()));
        let place = |memory: &iced_x86::UsedMemory| {
            let address = memory.virtual_address(0, |register, _, _| Some(value(&registers, register)))?;
            Some((address, memory.memory_size().size().max(1)))
        };
        memory.filter_map(place).collect()
    }

    /// The threads as a reader of the process sees them.
    pub(crate) fn threads(&self) -> Vec<Thread> {
        let thread = |(id, pointer): (&i32, &u64)| {
            let own = *id == self.thread.as_raw();
            // Of the others only that they wait matters.
            let waits = vec![Register { name: "rip".into(), value: 0 }];
            let general = if own { general(&self.registers) } else { waits };
            Thread {
                id: *id,
                stack_pointer: own.then_some(self.registers.rsp),
                thread_pointer: Some(*pointer),
                registers: Registers { general, vector: Vec::new() },
            }
        };
        self.pointers.iter().map(thread).collect()
    }

    /// The registers, in words.
    pub(crate) fn shown(&self) -> String {
        let all = general(&self.registers);
        all.iter()
            .map(|register| format!("{} {:#x}", register.name, register.value))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Forgets a thread that has ended.
    pub(crate) fn ended(&mut self) {
        self.pointers.remove(&self.thread.as_raw());
    }
}

fn ptrace_registers() -> user_regs_struct {
    ptrace::getregs(Pid::from_raw(0)).unwrap_or_else(|_| zero_registers())
}

fn repeats(instruction: &Instruction) -> bool {
    instruction.has_rep_prefix() || instruction.has_repne_prefix()
}

fn value(registers: &user_regs_struct, name: Name) -> u64 {
    match name.full_register() {
        Name::RAX => registers.rax,
        Name::RBX => registers.rbx,
        Name::RCX => registers.rcx,
        Name::RDX => registers.rdx,
        Name::RSI => registers.rsi,
        Name::RDI => registers.rdi,
        Name::RBP => registers.rbp,
        Name::RSP => registers.rsp,
        Name::R8 => registers.r8,
        Name::R9 => registers.r9,
        Name::R10 => registers.r10,
        Name::R11 => registers.r11,
        Name::R12 => registers.r12,
        Name::R13 => registers.r13,
        Name::R14 => registers.r14,
        Name::R15 => registers.r15,
        Name::RIP => registers.rip,
        Name::FS => registers.fs_base,
        Name::GS => registers.gs_base,
        _ => 0,
    }
}

fn general(registers: &user_regs_struct) -> Vec<Register> {
    let r = registers;
    let all = [
        ("r15", r.r15),
        ("r14", r.r14),
        ("r13", r.r13),
        ("r12", r.r12),
        ("rbp", r.rbp),
        ("rbx", r.rbx),
        ("r11", r.r11),
        ("r10", r.r10),
        ("r9", r.r9),
        ("r8", r.r8),
        ("rax", r.rax),
        ("rcx", r.rcx),
        ("rdx", r.rdx),
        ("rsi", r.rsi),
        ("rdi", r.rdi),
        ("rip", r.rip),
        ("rsp", r.rsp),
    ];
    all.into_iter().map(|(name, value)| Register { name: name.into(), value }).collect()
}

fn zero_registers() -> user_regs_struct {
    user_regs_struct {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbp: 0,
        rbx: 0,
        r11: 0,
        r10: 0,
        r9: 0,
        r8: 0,
        rax: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        orig_rax: 0,
        rip: 0,
        cs: 0,
        eflags: 0,
        rsp: 0,
        ss: 0,
        fs_base: 0,
        gs_base: 0,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
    }
}
