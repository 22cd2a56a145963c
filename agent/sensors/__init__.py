"""Where observations come from: the seam, and the recorded trace."""
