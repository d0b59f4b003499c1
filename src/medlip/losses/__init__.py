"""Losses as pure functions, one a file, each beside its plain reference."""
