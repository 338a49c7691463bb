"""The use cases, one file each: observe -> glibc -> account. Formatting and options are the
business of cli and render."""
