# Becomes PID 1 of a box of tier 2, in new namespaces: isolated.sh BOX BOXES HOSTNAME SSHD
# Reads "ADDRESS GATEWAY" once the simulator has put eth0 into our network namespace.
set -eu
box=$1 boxes=$2 hostname=$3 sshd=$4
read -r address gateway

hostname "$hostname"
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$gateway"

disk=$box/disk
mount -n -t overlay overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/overlay,xino=off" "$disk/merged"
cd "$disk/merged"
mount -n -t proc proc proc
mount -n -t sysfs -o ro sysfs sys
# The box's own limits and its count of OOM kills, readable as in a container.
if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    mount -n -t cgroup2 cgroup2 sys/fs/cgroup
    mount -n -o bind,remount,ro sys/fs/cgroup
elif [[ -d /sys/fs/cgroup/memory ]]; then
    mount -n -t tmpfs -o mode=755,size=64k cgroup sys/fs/cgroup
    mkdir sys/fs/cgroup/memory
    mount -n -t cgroup -o memory cgroup sys/fs/cgroup/memory
    mount -n -o bind,remount,ro sys/fs/cgroup/memory
fi
mount -n -t tmpfs -o mode=755,size=64k dev dev
mkdir dev/pts dev/shm
mount -n -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -n -t tmpfs -o mode=1777 shm dev/shm
for node in null zero full random urandom tty; do
    : >"dev/$node"
    mount -n --bind "/dev/$node" "dev/$node"
done
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -n -t tmpfs -o mode=755 run run
mkdir -p run/box run/old workspace
mount -n --bind "$disk/root" root
mount -n --bind "$disk/workspace" workspace
mount -n --bind "$disk/tmp" tmp
mount -n --bind "$box/etc" run/box
mount -n -o bind,remount,ro run/box
# The other boxes, where their directory shows through the overlay.
if [[ -d .$boxes ]]; then
    mount -n -t tmpfs -o mode=700,size=4k boxes ".$boxes"
fi

pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
# The machine's root may have a locked password or another home; in the box, keys must do.
sed -i 's|^root:.*|root:x:0:0:root:/root:/bin/bash|' /etc/passwd
sed -i 's|^root:[^:]*:|root:*:|' /etc/shadow

mapfile -d '' -t environment </run/box/container.env
cd /root
exec env -i "${environment[@]}" bash /run/box/launcher.sh /root/onstart.sh "$sshd" /run/box/sshd_config
