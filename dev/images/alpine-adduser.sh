#!/bin/sh
# Stands in for Alpine's adduser, which Debian's busybox lacks: makes a user without a password.
#   adduser [-D] [-S] [-H] [-u UID] [-G GROUP] [-h HOME] [-s SHELL] [-g COMMENT] USER
set -eu
uid='' group='' home='' shell=/bin/sh comment='' make_home=1
while getopts DSHu:G:h:s:g: option; do
  case $option in
    u) uid=$OPTARG ;;
    G) group=$OPTARG ;;
    h) home=$OPTARG ;;
    s) shell=$OPTARG ;;
    g) comment=$OPTARG ;;
    H) make_home=0 ;;
    D | S) ;;
    *) exit 1 ;;
  esac
done
shift $((OPTIND - 1))
user=${1:?adduser: name a user}
if grep -q "^$user:" /etc/passwd; then echo "adduser: user '$user' in use" >&2; exit 1; fi
if [ -z "$uid" ]; then
  uid=1000
  while grep -q "^[^:]*:[^:]*:$uid:" /etc/passwd; do uid=$((uid + 1)); done
fi
if [ -z "$group" ]; then
  group=$user
  addgroup -g "$uid" "$group"
fi
gid=$(sed -n "s/^$group:[^:]*:\([0-9]*\):.*/\1/p" /etc/group)
[ -n "$gid" ] || { echo "adduser: unknown group $group" >&2; exit 1; }
home=${home:-/home/$user}
echo "$user:x:$uid:$gid:$comment:$home:$shell" >>/etc/passwd
echo "$user:!::0:::::" >>/etc/shadow
if [ "$make_home" = 1 ]; then
  mkdir -p "$home"
  chown "$uid:$gid" "$home"
fi
