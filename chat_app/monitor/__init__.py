"""Monitoring: how the machine and the program are doing."""
