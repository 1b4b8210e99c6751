"""Processes that train together: how they are found, started, joined and watched."""
