"""What operators cost on a die and transfers on a plane: rooflines with fitted efficiencies."""
