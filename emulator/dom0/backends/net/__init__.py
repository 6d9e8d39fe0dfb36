"""The network backend: `tx` and `rx` are the rings, `device` joins them with a network and the xenbus handshake, `vifs` are a guest's."""
