"""Virtual machines on volumes: domain XML, identities, seed images, libvirt."""
