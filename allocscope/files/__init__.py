"""Memory that lies in files or in our own hands: the same Memory and Walker as for a live
process."""
