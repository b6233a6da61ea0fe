"""NFS version 3 (RFC 1813): what QEMU, libvirt and every client speak."""
