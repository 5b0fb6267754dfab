#!/usr/bin/env bash
# Runs the C tests, or tests in JavaScript, on another kernel or another processor: in a virtual machine (QEMU without help of the
# hardware, so tens of times slower) with the kernel of a Debian package. Needs no privilege, but on Debian
#   apt-get install qemu-system-x86 qemu-system-arm busybox-static cpio gcc-aarch64-linux-gnu libstdc++6-arm64-cross
#
#   scripts/other-kernel.sh linux-image-6.1.0-50-amd64                        all C tests, one line each
#   scripts/other-kernel.sh linux-image-6.12.117+deb12-arm64 guest peers      those whose names contain a word (dpkg --add-architecture arm64)
#   scripts/other-kernel.sh linux-image-6.12.117+deb12-arm64 --node torture/overrun      tests in JavaScript: npm test compiles them
set -euo pipefail
cd "$(dirname "$0")/.."
package=${1:?which kernel: the name of a Debian package}
shift

case $package in
  *arm64) machine=aarch64 debian=arm64 npm=arm64 cc=${CC:-aarch64-linux-gnu-gcc} libraries=/usr/aarch64-linux-gnu/lib ;;
  *) machine=x86_64 debian=amd64 npm=x64 cc=${CC:-cc} libraries=/lib/x86_64-linux-gnu ;;
esac
work=build/other-kernel/$package
root=$work/root
rm -rf "$root"
mkdir -p "$work/packages" "$root"/{bin,lib,lib64,tmp,proc,sys,dev,tests}

# A Debian package, unpacked.
unpack() {
  [ -d "$work/packages/$1" ] && return
  (cd "$work/packages" && apt-get download -qq "$1:$debian" && dpkg -x "$1"_*.deb "$1" && rm "$1"_*.deb)
}
unpack "$package"
unpack busybox-static
kernel=$(echo "$work/packages/$package"/boot/vmlinuz-*)
install "$work/packages/busybox-static/bin/busybox" "$root/bin/"
for applet in $("$root/bin/busybox" --list 2>/dev/null || busybox --list); do [ "$applet" = busybox ] || ln -sf busybox "$root/bin/$applet"; done
for library in libc libm libdl libpthread libgcc_s libstdc++; do cp -L "$libraries/$library".so.? "$root/lib/" 2>/dev/null || true; done
cp -L "$libraries"/ld-linux-* "$root/lib/"
cp -L "$libraries"/ld-linux-* "$root/lib64/"

compile_c() {
  mkdir -p "$work/objects"
  flags='-std=c11 -g -O2 -D_GNU_SOURCE -Wall -Wextra -pthread -Inative'
  for file in native/*.c; do
    case $file in native/binding*) continue ;; esac
    # shellcheck disable=SC2086
    $cc $flags -c "$file" -o "$work/objects/$(basename "$file" .c).o"
  done
  rm -f "$work/core.a"
  "${cc%gcc}ar" rcs "$work/core.a" "$work/objects"/*.o 2>/dev/null || ar rcs "$work/core.a" "$work/objects"/*.o
  for file in native/test/*_test.c; do
    name=$(basename "$file" .c)
    for word in "${@:-_test}"; do
      # shellcheck disable=SC2086
      case $name in *"$word"*) $cc $flags -Wno-unused-function -o "$root/tests/$name" "$file" "$work/core.a" -ldl ;; esac
    done
  done
  cat > "$root/tests/run" << 'RUN'
for test in /tests/*_test; do
  from=$(date +%s)
  PF_TEST_PATIENCE=20 timeout 3600 $test > /tmp/out 2>&1
  code=$?
  echo "$(basename $test): exit code $code, $(($(date +%s) - from)) s: $(tail -n 1 /tmp/out)"
  [ $code = 0 ] || grep -B 8 -e failed: -e hangs: /tmp/out
done
RUN
}

take_node() {
  version=$(node -p 'process.versions.node.split(".")[0]')
  npm install --silent --no-save --ignore-scripts --force --prefix "$work/node" "node-linux-$npm@$version"
  cp "$work/node/node_modules/node-linux-$npm/bin/node" "$root/bin/"
  CC="$cc" node scripts/build-native.mjs "$work/pagefault.node"
  mkdir -p "$root/pagefault/build/Release"
  cp -r dist package.json scripts examples "$root/pagefault/"
  cp -r build/test "$root/pagefault/build/"
  cp -r test "$root/pagefault/"
  cp "$work/pagefault.node" "$root/pagefault/build/Release/"
  echo "cd /pagefault && node dist/cli/main.js doctor && node scripts/test.mjs $*" > "$root/tests/run"
}

if [ "${1:-}" = --node ]; then
  shift
  take_node "$@"
else
  compile_c "$@"
fi

cat > "$root/init" << 'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
export PATH=/bin HOME=/tmp NO_COLOR=1
uname -srm
sh /tests/run
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/root.gz"

case $machine in
  aarch64) hardware='-M virt -cpu max,pauth-impdef=on' console=ttyAMA0 ;;
  *) hardware='-cpu max' console=ttyS0 ;;
esac
# shellcheck disable=SC2086
exec qemu-system-$machine $hardware -accel tcg,thread=multi -m 6g -smp 2 -net none -nographic -no-reboot \
  -kernel "$kernel" -initrd "$work/root.gz" -append "console=$console quiet panic=-1"
