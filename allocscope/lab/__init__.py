"""Experiments that start processes of their own: fixtures whose truth is known, what is measured on
them."""
