"""Budgets in the units that people pay in, and the least cut that keeps them. Read parse first."""
