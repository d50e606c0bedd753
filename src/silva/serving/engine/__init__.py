"""What computes: memory of keys and values, the runner of one step, the sampler, the step loop."""
