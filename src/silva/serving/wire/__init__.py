"""What the front and its peers say to each other, and the sockets that carry it."""
