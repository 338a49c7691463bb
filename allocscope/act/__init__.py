"""Everything that stops, copies, calls or changes a target.

Rules: asked for by an option, never by default; the cost is forecast and capped before, and
measured and reported after; SIGKILL on any part of allocscope leaves the target alive, running and
unchanged.
"""
