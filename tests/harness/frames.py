"""The frames of a process, as they are unwound."""

from gdb_leak import _native

from harness import tracer


def frames_of(pid: int) -> list[tuple[str | None, _native.Frame]]:
    """Return the frames of a process of one thread, each with the name of its function."""
    with tracer.held(pid) as stopped:
        memory = _native.open_process(pid)
        ((_, frames, _),) = _native.frames(memory, stopped.registers())
        symbols = [memory.symbol(frame.pc) for frame in frames]
    return [(symbol and symbol[0], frame) for symbol, frame in zip(symbols, frames)]
