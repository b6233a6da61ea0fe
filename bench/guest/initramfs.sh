#!/bin/busybox sh
# Load what the root disk needs, mount it, go there.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk ext4; do modprobe -q $module; done
tries=0
while [ ! -b /dev/vda2 ] && [ $tries -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
mount -t ext4 /dev/vda2 /root || exec sh
exec switch_root /root /sbin/init
