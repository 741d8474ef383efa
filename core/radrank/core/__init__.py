"""Studies, archive, graph, ranking: what radrank is about, on numpy and the standard library alone."""
