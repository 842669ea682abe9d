"""What a channel is worth: criteria, samples, scores. Read criteria first, then score."""
