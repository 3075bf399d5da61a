#!/bin/busybox sh
# /init of the initial RAM disk: Debian's cloud kernel has its disk drivers as modules.
/bin/busybox mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    /bin/busybox insmod "/$module.ko"
done
/bin/busybox mount -t ext4 /dev/vda /mnt
exec /bin/busybox switch_root /mnt /guest/init.sh
