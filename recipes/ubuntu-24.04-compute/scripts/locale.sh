#!/bin/sh
# Makes en_US.UTF-8, beside C.UTF-8 which is always there. Add others here.
set -eu
locale-gen en_US.UTF-8
