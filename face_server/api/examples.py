"""Small values that the documentation shows and that work when sent as they are."""

from __future__ import annotations

PICTURE_BASE64 = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVQY02NsYEAFTAwjWgAAmZAAoP5WG2AAAAAASUVORK5CYII="
"""A grey 16×16 PNG: a valid picture without a face."""
