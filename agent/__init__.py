"""What a device knows and decides: messages, replicated world, inference."""
