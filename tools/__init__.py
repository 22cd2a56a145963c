"""What makes the things that ship: the traffic trace and the forecasters. Not installed."""
