#!/bin/sh
# Stands in for Alpine's addgroup, which Debian's busybox lacks: addgroup [-S] [-g GID] GROUP,
# addgroup USER GROUP.
set -eu
gid=
while getopts Sg: option; do
  case $option in
    g) gid=$OPTARG ;;
    S) ;;
    *) exit 1 ;;
  esac
done
shift $((OPTIND - 1))
if [ $# = 2 ]; then
  grep -q "^$2:" /etc/group || { echo "addgroup: unknown group $2" >&2; exit 1; }
  sed -i "/^$2:/{s/:\$/:$1/;t;s/\$/,$1/}" /etc/group
  exit
fi
if grep -q "^$1:" /etc/group; then echo "addgroup: group '$1' in use" >&2; exit 1; fi
if [ -z "$gid" ]; then
  gid=1000
  while grep -q "^[^:]*:[^:]*:$gid:" /etc/group; do gid=$((gid + 1)); done
fi
echo "$1:x:$gid:" >>/etc/group
