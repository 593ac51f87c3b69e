#!/bin/sh
# driver_libraries.sh HOST LINKS: link the driver's libraries, and nothing else, below LINKS/usr/lib64.
#
# HOST is the node's root. The driver is where NVIDIA's GPU Operator puts it in a container, else on the host itself. The
# probe gets LINKS as --driver-root: the host's own folders have a libc too, which a process of this image cannot use.
set -eu
host=$1
links=$2/usr/lib64
mkdir -p "$links"
for root in "$host/run/nvidia/driver" "$host"; do
  for folder in usr/lib/x86_64-linux-gnu usr/lib/aarch64-linux-gnu usr/lib64 usr/lib/x86_64-linux-gnu/nvidia/current; do
    for file in "$root/$folder"/libcuda.so* "$root/$folder"/libcudadebugger.so* "$root/$folder"/libnvidia-*.so*; do
      if [ -e "$file" ]; then
        ln -sf "$file" "$links/"
      fi
    done
  done
  if [ -e "$links/libnvidia-ml.so.1" ]; then
    echo "the driver is below $root"
    exit 0
  fi
done
# No failure: the probe's own answer will say what the loader did not find.
echo "neither $host/run/nvidia/driver nor $host holds libnvidia-ml.so.1" >&2
