"""The block backend: `ring` answers requests, `device` joins a ring, an image and the xenbus handshake, `disks` are a guest's."""
