"""What a cut is: gates, budget, surgery, masks. Read gates first, then budget."""
