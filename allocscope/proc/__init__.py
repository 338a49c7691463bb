"""Reading a live target from outside: /proc, the files it has mapped, its control groups.

Rules: nothing here stops, signals, or writes to the target, and nothing makes the kernel map a
page into it. Each OSError is translated once, here, into an error that names the pid and the cure.
Imports stay light (os rather than pathlib, no parsers of big formats), because every command
starts through this room.
"""
