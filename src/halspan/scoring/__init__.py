"""Scoring of any number of captions: one job, its shards, and the machines that they are placed on."""
