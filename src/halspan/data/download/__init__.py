"""Download of images that a corpus only links to, within limits and with a record of each address."""
