# shellcheck shell=bash
# What is in the images. Each recipe fills a folder and writes a layout: RECIPE WORK_FOLDER LAYOUT [ARGUMENT].

certificates=/etc/ssl/certs/ca-certificates.crt

# busybox_root FOLDER: a file system with a shell, the usual commands and the certificates of authorities.
busybox_root() {
  local root=$1 applet
  mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,root,home,srv,mnt,opt,media,var/{log,lib,cache,spool},usr/{bin,sbin,lib,share,local/bin},etc/ssl/certs}
  mkdir -m 1777 "$root/tmp" "$root/var/tmp"
  chmod 0700 "$root/root"
  cp "$(command -v busybox)" "$root/bin/busybox"
  for applet in $("$root/bin/busybox" --list-full); do
    [ "$applet" = bin/busybox ] || ln -s /bin/busybox "$root/$applet"
  done
  cp "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65533:\nnobody:x:65534:\n' >"$root/etc/group"
  printf 'root:*::0:::::\n' >"$root/etc/shadow"
  chmod 0640 "$root/etc/shadow"
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
}

pause() {
  gcc -Os -static -s -o "$1/root/pause" "$images/pause.c"
  pack "$1/root" "$1/layer.tar"
  write_layout "$2" '{"User": "65535:65535", "Entrypoint": ["/pause"]}' 3.10 "$1/layer.tar"
}

# alpine WORK LAYOUT RELEASE: looks like Alpine Linux from a Dockerfile's point of view, but has no package manager.
alpine() {
  local root=$1/root release=$3
  busybox_root "$root"
  echo "$release" >"$root/etc/alpine-release"
  printf 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=%s\nPRETTY_NAME="Alpine Linux v%s (stand-in)"\n' \
    "$release" "${release%.*}" >"$root/etc/os-release"
  local command
  for command in adduser addgroup; do
    [ -e "$root/bin/$command" ] || [ -e "$root/usr/sbin/$command" ] || install -m 0755 "$images/alpine-$command.sh" "$root/usr/sbin/$command"
  done
  pack "$root" "$1/layer.tar"
  write_layout "$2" '{"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"}' \
    "$release" "$1/layer.tar"
}

# debian WORK LAYOUT PATCH: a real one. With a patch number above 0, a second layer holds it in /etc/base-patch.
debian() {
  local root=$1/root patch=$3 base more=()
  cached_debian_base
  cp "$base" "$1/layer.tar"
  if [ "$patch" != 0 ]; then
    mkdir -p "$root/etc"
    echo "$patch" >"$root/etc/base-patch"
    pack "$root" "$1/patch.tar"
    more=("$1/patch.tar")
  fi
  write_layout "$2" '{"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]}' \
    "12.$patch" "$1/layer.tar" "${more[@]}"
}

# Sets `base` to the tar of a minimal Debian 12. Debootstrap takes most of a minute, so it runs once per machine.
cached_debian_base() {
  base=$layouts/debian-bookworm.tar
  [ ! -f "$base" ] || return 0
  local root mirror
  root=$(mktemp -d "$layouts/.debootstrap.XXXXXX")
  mirror=$(apt_mirror)
  if ! debootstrap --variant=minbase --include=ca-certificates bookworm "$root" ${mirror:+"$mirror"} >"$layouts/debootstrap.log" 2>&1; then
    tail -n 15 "$layouts/debootstrap.log" >&2
    say "debootstrap failed, see $layouts/debootstrap.log"
    rm -rf --one-file-system "$root"
    return 1
  fi
  copy_apt_configuration "$root"
  rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/*.log \
    "$root"/usr/share/{doc,man,info,locale}/* "$root"/etc/{hostname,resolv.conf} "${root:?}"/dev/*
  mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
  # As in slim images: no documentation, no waiting for the disk, and packages start no services.
  printf 'force-unsafe-io\npath-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n' \
    >"$root/etc/dpkg/dpkg.cfg.d/slim"
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 0755 "$root/usr/sbin/policy-rc.d" "$root"
  pack "$root" "$base.part"
  mv "$base.part" "$base"
  rm -rf --one-file-system "$root"
}

# Where this machine gets its Debian packages from, if it is a Debian 12; else nothing: debootstrap then knows by itself.
apt_mirror() {
  apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 2>/dev/null |
    awk '$2 == "bookworm" && $3 == "main" { print $1; exit }'
}

# copy_apt_configuration ROOT: builds fetch packages the way this machine does (mirror, proxy, checks), because that is
# known to work here. Credentials are not copied.
copy_apt_configuration() {
  local root=$1 file
  if apt-get indextargets --format '$(CODENAME)' 2>/dev/null | grep -qx bookworm; then
    rm -f "$root/etc/apt/sources.list"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
      [ ! -f "$file" ] || cp "$file" "$root$file"
    done
  fi
  apt-config dump Acquire | grep -E '^Acquire::(http|https|Check-|Retries|AllowInsecure)[^ ]* "' >"$root/etc/apt/apt.conf.d/80acquire" || true
  cp "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"
}

# buildkit WORK LAYOUT: the commands at the places where the official image has them.
buildkit() {
  local root=$1/root program
  busybox_root "$root"
  for program in buildkitd buildctl; do cp "$(command -v "$program")" "$root/usr/bin/$program"; done
  cp "$(command -v runc)" "$root/usr/bin/buildkit-runc"
  install -m 0755 "$images/buildctl-daemonless.sh" "$root/usr/bin/buildctl-daemonless.sh"
  mkdir -p "$root/var/lib/buildkit" "$root/etc/buildkit"
  pack "$root" "$1/layer.tar"
  write_layout "$2" '{"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Entrypoint": ["buildkitd"], "Volumes": {"/var/lib/buildkit": {}}}' \
    v0.33.0 "$1/layer.tar"
}
