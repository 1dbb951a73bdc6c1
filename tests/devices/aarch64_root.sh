#!/bin/sh
# Makes a Debian for aarch64 that this machine's kernel runs under qemu, with numpy and ONNX Runtime, for
# tests/profiling/test_aarch64.py; as root, with the packages debootstrap and qemu-user-static:
#
#     sh tests/devices/aarch64_root.sh FOLDER
#     EFFVIT_AARCH64_ROOT=FOLDER python -m pytest -m slow tests/profiling/test_aarch64.py
set -eu
root=$1
release=bookworm python=3.11
binfmt=/proc/sys/fs/binfmt_misc

# The kernel starts qemu for programs of aarch64. F: it opens qemu now, so that the root needs no copy of it.
[ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
if ! [ -e $binfmt/qemu-aarch64 ]; then
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s\n' ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >$binfmt/register
fi

debootstrap --arch=arm64 --variant=minbase --include=python3 $release "$root"
python3 -m pip install --quiet --no-compile --target "$root/usr/local/lib/python$python/dist-packages" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    --implementation cp --python-version $python --only-binary=:all: numpy onnxruntime
chroot "$root" /usr/bin/python3 -c 'import platform, numpy, onnxruntime; print(platform.machine(), onnxruntime.__version__)'
