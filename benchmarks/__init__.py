"""Measurements of the library's speed."""
