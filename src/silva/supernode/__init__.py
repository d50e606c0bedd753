"""The supernode as a model: hardware, costs, pipelines, and what they predict."""
