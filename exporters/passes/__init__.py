"""Named graph passes, one a file."""
