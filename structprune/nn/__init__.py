"""What ``torch.nn`` lacks: layers, norms, attention, precision, re-initialisation. Read layers first."""
