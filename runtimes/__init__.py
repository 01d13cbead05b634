"""Runtimes: from a bundle to text, without torch."""
