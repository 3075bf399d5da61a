#!/bin/sh
# PID 1 of the guest: what systemd does with control groups, then a cluster's life. The serial line has the results:
# `== NAME` before a step, `== NAME: STATUS` after it.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root KUBECONFIG=/root/kubeconfig EKSTRA_COMPONENTS=
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
ip link set lo up
hostname guest
# As systemd-modules-load does where there is no udev to make the device.
modprobe loop

step() {
    name=$1
    shift
    echo "== $name"
    "$@" 2>&1
    echo "== $name: $?"
}
kubectl() { /guest/ekstra kubectl "$@"; }
groups() { find /sys/fs/cgroup -maxdepth 1 -name 'ekstra-*'; }
# Sets the clock; then a pod named $2 comes up on a node that is Ready, and goes.
jump() {
    date -s "$1" && kubectl run "$2" --image=guest/busybox:1 --restart=Never -- sleep 3600 \
        && kubectl wait --for=condition=Ready "pod/$2" --timeout=240s \
        && kubectl wait --for=condition=Ready node --all --timeout=120s \
        && kubectl exec "$2" -- true \
        && kubectl delete pod "$2" --grace-period=1 --timeout=120s
}
limits() { for file in /sys/fs/cgroup/ekstra-*/i-*/memory.max; do cat "$file"; done; }
left() {
    groups
    ls /run/netns 2>/dev/null
    grep ekstra /proc/self/mounts
    losetup -a
    nft list tables | grep ekstra
    ip -br link | grep -v '^lo '
}

step kernel uname -r
step doctor /guest/ekstra doctor
step create /guest/ekstra create cluster --name c --managed --nodes 1
step image /guest/ekstra image pack /guest/rootfs --name guest/busybox:1 --entrypoint /bin/busybox
step apply kubectl apply -f /guest/pod.yaml
step pod kubectl wait --for=condition=Ready pod/limited --timeout=240s
step limit kubectl exec limited -- cat /sys/fs/cgroup/memory.max
step killed kubectl wait --for=jsonpath='{.status.containerStatuses[0].state.terminated.reason}'=OOMKilled pod/greedy --timeout=240s
step nodes kubectl get nodes --no-headers
step node-limit limits
step dns kubectl wait --for=condition=Available deployment/coredns -n kube-system --timeout=300s
step back jump '30 minutes ago' earlier
step forward jump '30 hours' later
step delete /guest/ekstra delete cluster --name c
step stop /guest/ekstra stop --all
step left left
sync
echo o > /proc/sysrq-trigger
sleep 60
