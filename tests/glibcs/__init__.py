"""allocscope against glibcs that this machine does not have: fetched, unpacked, and run side by
side.

A version that could not be fetched is reported as not tested, never left out in silence.
"""
