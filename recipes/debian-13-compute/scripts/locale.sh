#!/bin/sh
# Makes en_US.UTF-8, beside C.UTF-8 which is always there. Add others here.
set -eu
echo 'en_US.UTF-8 UTF-8' >/etc/locale.gen
locale-gen
