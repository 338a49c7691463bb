"""Who owns which memory: recognisers, each of which claims memory by a structure it found there.

Strategy: every recogniser looks for one owner and returns Claims; :mod:`allocscope.owners.divide`
lays them over the mappings. Rules: a claim rests on what was read in memory, or on what the kernel
says of a mapping; that a library is loaded, or that a size looks familiar, is none. What nobody
claims is unexplained. Nothing here touches a page that is not there.
"""
