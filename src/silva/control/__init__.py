"""Pure decisions of serving: no tensors, sockets, processes or clock of their own."""
