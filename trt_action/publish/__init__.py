"""What was measured becomes an image in a registry, with its evidence; nothing here knows GitHub."""
