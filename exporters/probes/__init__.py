"""What is measured of a network: time, memory, disk, multiply-adds, energy."""
