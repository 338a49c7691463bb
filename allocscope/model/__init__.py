"""What travels between the rooms: immutable value classes without behaviour beyond derived
properties.

Units are in the names (``_bytes``, ``_count``, ``_ns``, ``_ratio``, ``_pages``); addresses are
plain ints here and hex strings in JSON (fields with the metadata of
:mod:`allocscope.model.fields`). Unknown is None, never 0.
"""
