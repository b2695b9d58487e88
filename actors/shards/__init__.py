"""One model over several donors: the links that carry hidden states, and the chains of stages that they join."""
