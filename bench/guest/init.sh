#!/bin/busybox sh
# The guest: take the identity that a NoCloud seed gives, print it, stay until the power button.
export PATH=/bin:/sbin:/usr/bin
/bin/busybox --install -s /bin 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
for module in isofs virtio_net button evdev ata_piix sr_mod virtio_scsi sd_mod; do
    modprobe -q $module
done
state=/var/lib/guest
value() { sed -n "s/^$1: *\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" /mnt/meta-data; }

sleep 0.2
for device in /dev/vd[a-z] /dev/sr[0-9] /dev/sd[a-z]; do
    # an ISO 9660 volume's name is at 32808
    [ "$(dd if=$device bs=1 skip=32808 count=6 2>/dev/null)" = cidata ] || continue
    mount -o ro -t iso9660 $device /mnt || continue
    instance=$(value instance-id)
    if [ "$instance" != "$(cat $state/instance-id)" ]; then
        value local-hostname > /etc/hostname
        id=$(value machine-id)
        echo "${id:-$(cat /proc/sys/kernel/random/uuid | tr -d -)}" > /etc/machine-id
        rm -f $state/host_key
        echo "$instance" > $state/instance-id
    fi
    umount /mnt
    break
done
# The first event of the power button (an input device) ends the wait; whoever has read who this is
# may press it at once.
trap 'sync; mount -o remount,ro /; poweroff -f' USR1
for event in /dev/input/event*; do
    (head -c 24 $event > /dev/null && kill -USR1 1) &
done
[ -s $state/host_key ] || dropbearkey -t ed25519 -f $state/host_key > /dev/null 2>&1
boots=$(($(cat $state/boots 2>/dev/null || echo 0) + 1))
echo $boots > $state/boots
sync
hostname -F /etc/hostname
key=$(dropbearkey -y -f $state/host_key | sed -n 's/^Fingerprint: *//p' | tr ' ' _)
uuid=$(tr A-F a-f < /sys/class/dmi/id/product_uuid)
echo "RAMET-GUEST hostname=$(hostname) machine-id=$(cat /etc/machine-id)" \
    "mac=$(cat /sys/class/net/eth0/address) uuid=$uuid hostkey=$key" \
    "instance-id=$(cat $state/instance-id) boots=$boots" > /dev/ttyS0

while :; do sleep 1; done
