"""Delivery: what one checkpoint sends, and how."""
