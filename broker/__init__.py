"""How devices hear each other: the topic contract, the mesh, the embedded broker. Knows nothing of agents."""
