"""Exporters: from a PyTorch model to a bundle."""
