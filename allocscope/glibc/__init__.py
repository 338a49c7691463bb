"""What glibc's bytes mean. Pure: memory is reached through the protocols of
:mod:`allocscope.glibc.protocols`.

The way of the data: ``locate`` finds the arenas and ``mp_`` by their ``invariants`` -> ``states``
reads every arena -> ``threads`` and ``marks`` find what lies in tcaches and fastbins -> ``pieces``
cuts each arena into rows of chunks -> the Walker tallies them -> ``reading`` validates the whole
and repeats what changed meanwhile. ``examine`` tells why a layout does not fit, for a report.
"""
