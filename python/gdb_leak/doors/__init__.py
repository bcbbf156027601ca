"""The two doors to the commands: gdb's prompt and the shell."""
