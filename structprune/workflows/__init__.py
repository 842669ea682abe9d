"""From a request to a result folder: compress, train, pareto. Read request first, then compress."""
