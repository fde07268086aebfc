"""Circuits in the formats of other tools, both ways: attribution graphs as JSON, networkx, GraphML, GEXF, DOT."""
