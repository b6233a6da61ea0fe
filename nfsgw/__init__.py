"""The NFS gateway: ONC RPC, portmap, MOUNT, NFSv3 and NFSv4.2 straight on the engine."""
