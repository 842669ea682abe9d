"""That a cut is what it is meant to be: trial cuts, proofs, and how two networks are compared."""
