"""Text or bytes in, model out: what Linux and glibc print, read once and for all.

Rules: no IO here; whatever the input, the only error that leaves is
:class:`allocscope.errors.BadInput`; names that a target chose (comm, paths, environment) stay as
they are, bytes that are not UTF-8 as surrogates.
"""
