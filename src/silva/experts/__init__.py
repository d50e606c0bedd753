"""Large-scale expert parallelism: tokens go straight to the ranks that hold their experts."""
