"""Makes the traffic trace: a small signalised city in SUMO, seen by one camera per junction."""
