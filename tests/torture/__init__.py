"""What allocscope may never do to a process, tried thousands of times: ``./dev torture``.

``storms``: snapshots and applied trims of programs that check themselves, under several glibcs.
``kills``: SIGKILL of each of our processes, at every request that it makes of the kernel and at
random instants. ``table``: the figures, as measured, into docs/torture.md. ``test_torture.py`` is
the short form.
"""
