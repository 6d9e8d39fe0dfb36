"""Screens of the console: each X.py beside its X.tcss."""
