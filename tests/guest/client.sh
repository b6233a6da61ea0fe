#!/bin/busybox sh
# A Linux kernel as a client of what the host presents: network up, then /script, then power off.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /run/lock /tmp /mnt /var/lib/iscsi
mount -t tmpfs run /run
mkdir -p /run/lock/iscsi
for module in virtio_pci virtio_net af_packet ext4 sd_mod; do modprobe -q $module; done
ln -s /bin/busybox /sbin/modprobe
hostname client
ip link set lo up
tries=0
while [ ! -e /sys/class/net/eth0 ] && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
echo > /dev/ttyS0
sh /script > /dev/ttyS0 2>&1
echo "RAMET-CLIENT $?" > /dev/ttyS0
poweroff -f
