"""The NFS gateway: ONC RPC, MOUNT, NFSv3 and v4.2 straight on the engine.  Not here yet."""
