"""Architectures, and the recipes that put them to work."""
