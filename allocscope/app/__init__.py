"""The use cases, one file each: proc -> glibc -> account. Formatting and options are the
business of cli and render."""
