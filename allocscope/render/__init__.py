"""Model in, text out. Pure: no file, no terminal, no clock; whoever calls says how wide and how
colourful.

``json`` is the contract and imports nothing beyond the standard library, so that ``--json``
starts quickly. ``table`` is for people and the only part that needs rich. Strings that come from
a target are hostile and pass through ``text.clean``.
"""
