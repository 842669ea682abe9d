"""How a cut network is held against the dense one with closed gates: how far apart, and under which settings.

Read `gap` first, then `settings`: what a forward pass may branch on, and the inputs and modes that take each
branch. `lockstep` runs both networks through all of them; `influence` finds groups that show nothing.
"""
