"""Backbones larger than a device: their decoder layers in shards, one for each of several processes."""
