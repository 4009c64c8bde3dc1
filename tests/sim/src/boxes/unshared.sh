# Becomes PID 1 of a box of tier 1.5, in the namespaces of an ordinary user: unshared.sh BOX BOXES HOSTNAME
set -eu
box=$1 boxes=$2 hostname=$3

hostname "$hostname"
# The box keeps its own files and its own /tmp; those of the other boxes go out of sight. Its directory waits at /mnt while
# the way to it is covered.
mount -n --bind "$box" /mnt
mount -n --bind "$box/tmp" /tmp
case $boxes in
    /tmp/*) ;;
    *) mount -n -t tmpfs -o mode=700,size=64k boxes "$boxes" ;;
esac
mkdir -p "$box"
mount -n --move /mnt "$box"
# Terminals of its own: sshd could not give away those of the machine.
mount -n -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts /dev/pts
mount -n --bind /dev/pts/ptmx /dev/ptmx

mapfile -d '' -t environment <"$box/etc/container.env"
cd "$box/home"
exec setpriv --ambient-caps -all --inh-caps -all \
    env -i "${environment[@]}" bash "$box/etc/launcher.sh" "$box/home/onstart.sh"
