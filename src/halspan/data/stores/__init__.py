"""Object stores, which fsspec speaks to: their addresses, what is read and written there, and copies of inputs."""
