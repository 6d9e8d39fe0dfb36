"""Soaks: long runs of seeded chance, each a command of its own."""
