"""What must be true of every run, checked without the mesh's own code: each checker is one promise."""
