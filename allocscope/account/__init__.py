"""Joins what was read from the heap with what the kernel says of the pages. The sums close here."""
