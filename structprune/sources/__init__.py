"""Networks in: from a file, a zoo, a factory of the user's own, or an earlier result."""
