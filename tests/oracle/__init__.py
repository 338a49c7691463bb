"""A slow, plain Python reading of glibc's heap, to compare the fast one with. It imports nothing of
allocscope and shares nothing with it: not its layouts, not its ways of finding things.

It looks at quiescent processes only, stops their threads to ask for their thread pointers, and
gives up loudly (OracleError) on anything it was not written for."""


class OracleError(Exception):
    """Something is not as the oracle knows it: the heap, the layout, or the oracle is wrong."""
