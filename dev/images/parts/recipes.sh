# shellcheck shell=bash
# What is in the images. Each recipe fills a folder and writes a layout: RECIPE WORK_FOLDER LAYOUT
# [ARGUMENT].

certificates=/etc/ssl/certs/ca-certificates.crt

# busybox_root FOLDER: a file system with a shell, the usual commands and the certificates of
# authorities.
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

# alpine WORK LAYOUT RELEASE: looks like Alpine Linux from a Dockerfile's point of view, but has no
# package manager.
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

# debian WORK LAYOUT PATCH: a real one. With a patch number above 0, a second layer holds it in
# /etc/base-patch.
debian() {
  local patch=$3 base more=()
  cached_debian_base trixie
  cp "$base" "$1/layer.tar"
  patch_layer "$1" "$patch"
  write_layout "$2" '{"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]}' \
    "13.$patch" "$1/layer.tar" "${more[@]}"
}

# cached_debian_base RELEASE: sets `base` to the tar of a minimal Debian. Debootstrap takes about a
# minute, so it runs once per machine and release.
cached_debian_base() {
  local release=$1
  base=$layouts/debian-$release.tar
  [ ! -f "$base" ] || return 0
  local root mirror
  root=$(mktemp -d "$layouts/.debootstrap.XXXXXX")
  mirror=$(apt_mirror)
  if ! debootstrap --variant=minbase --include=ca-certificates "$release" "$root" ${mirror:+"$mirror"} >"$layouts/debootstrap.log" 2>&1; then
    tail -n 15 "$layouts/debootstrap.log" >&2
    say "debootstrap failed, see $layouts/debootstrap.log"
    rm -rf --one-file-system "$root"
    return 1
  fi
  copy_apt_configuration "$root" "$release"
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

# The codename of this machine's Debian; nothing if it is no Debian.
own_release() {
  # shellcheck disable=SC1091
  (. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") || true
}

# Where this machine gets its Debian packages from, if it is a Debian; else nothing: debootstrap
# then knows by itself.
apt_mirror() {
  apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 2>/dev/null |
    awk -v own="$(own_release)" 'own != "" && $2 == own && $3 == "main" { print $1; exit }'
}

# copy_apt_configuration ROOT RELEASE: builds fetch packages the way this machine does (mirror,
# proxy, checks), because that is known to work here. Credentials are not copied.
copy_apt_configuration() {
  local root=$1 release=$2 file own
  own=$(own_release)
  if [ -n "$own" ] && apt-get indextargets --format '$(CODENAME)' 2>/dev/null | grep -qx "$own"; then
    rm -f "$root/etc/apt/sources.list"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
      [ ! -f "$file" ] || sed "s/\b$own\b/$release/g" "$file" >"$root$file"
    done
  fi
  apt-config dump Acquire | grep -E '^Acquire::(http|https|Check-|Retries|AllowInsecure)[^ ]* "' >"$root/etc/apt/apt.conf.d/80acquire" || true
  cp "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"
}

# patch_layer WORK PATCH: appends a layer with /etc/base-patch to `more`, for a patch number above
# 0.
patch_layer() {
  [ "$2" != 0 ] || return 0
  mkdir -p "$1/patch/etc"
  echo "$2" >"$1/patch/etc/base-patch"
  pack "$1/patch" "$1/patch.tar"
  more+=("$1/patch.tar")
}

# rust WORK LAYOUT PATCH: Debian with a compiler for C and this machine's toolchain, at the places
# where the official image has them. The official image has more of Debian's development packages.
rust() {
  local base more=()
  cached_rust_base
  cp "$base" "$1/layer.tar"
  patch_layer "$1" "$3"
  write_layout "$2" '{"Env": ["PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "RUSTUP_HOME=/usr/local/rustup", "CARGO_HOME=/usr/local/cargo", "RUST_VERSION='"$rust_version"'"], "Cmd": ["bash"]}' \
    "$rust_version.$3" "$1/layer.tar" "${more[@]}"
}

rust_version=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$dev/../rust-toolchain.toml")

# Sets `base` to the tar of the image for Rust, which takes some minutes and is made once per
# version.
cached_rust_base() {
  local debian root sysroot toolchain program
  cached_debian_base bookworm
  debian=$base base=$layouts/rust-$rust_version.tar
  [ ! -f "$base" ] || return 0
  sysroot=$(cd "$dev/.." && rustc --print sysroot)
  root=$(mktemp -d "$layouts/.rust.XXXXXX")
  tar --extract --file "$debian" --directory "$root"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  # apt needs /dev, which is mounted in a namespace that ends with the command.
  # shellcheck disable=SC2016
  if ! unshare --mount sh -ec 'mount --rbind /dev "$1/dev" && exec chroot "$1" sh -ec "$2"' sh "$root" \
    'apt-get update
     DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       curl g++ gcc git libc6-dev make patch perl pkg-config xz-utils
     apt-get clean
     rm -rf /var/lib/apt/lists/* /var/log/*' >"$layouts/rust.log" 2>&1; then
    tail -n 15 "$layouts/rust.log" >&2
    say "the packages for Rust could not be installed, see $layouts/rust.log"
    rm -rf --one-file-system "$root"
    return 1
  fi
  rm "$root/etc/resolv.conf"
  toolchain=$root/usr/local/rustup/toolchains/$rust_version-$(rustc -vV | sed -n 's/^host: //p')
  mkdir -p "$toolchain" "$root/usr/local/cargo/bin"
  tar --create --directory "$sysroot" --exclude=./share/doc --exclude=./bin/*clippy* --exclude=./bin/*fmt . |
    tar --extract --directory "$toolchain" --no-same-owner
  cp "$(command -v rustup)" "$root/usr/local/cargo/bin/rustup"
  for program in cargo rustc rustdoc; do ln -s rustup "$root/usr/local/cargo/bin/$program"; done
  printf 'version = "12"\ndefault_toolchain = "%s"\nprofile = "minimal"\n' "${toolchain##*/}" >"$root/usr/local/rustup/settings.toml"
  pack "$root" "$base.part"
  mv "$base.part" "$base"
  rm -rf --one-file-system "$root"
}

# distroless WORK LAYOUT PATCH: what gcr.io/distroless/cc has, from Debian's packages: the C
# library, libgcc and libstdc++ where a program of Rust or C finds them, certificates, and the user
# 65532. No shell and no package manager.
distroless() {
  local root=$1/root debian=$1/debian base more=() library
  cached_debian_base bookworm
  mkdir "$debian"
  tar --extract --file "$base" --directory "$debian"
  mkdir -p "$root"/{etc/ssl/certs,home/nonroot,usr/bin,usr/sbin,usr/lib,usr/lib64,proc,sys,dev,run,var/tmp}
  mkdir -m 1777 "$root/tmp"
  for library in bin sbin lib lib64; do ln -s "usr/$library" "$root/$library"; done
  # Paths of packages go through the links above.
  chroot "$debian" dpkg -L libc6 libgcc-s1 libstdc++6 | grep -E '/(lib|lib64)/.*\.so' | while read -r library; do
    [ -f "$debian$library" ] || continue
    mkdir -p "$root$(dirname "$library")"
    cp -a "$debian$library" "$root$library"
  done
  cp "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' \
    >"$root/etc/passwd"
  printf 'root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n' >"$root/etc/group"
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
  chown 65532:65532 "$root/home/nonroot"
  pack "$root" "$1/layer.tar"
  patch_layer "$1" "$3"
  write_layout "$2" '{"User": "65532", "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"], "WorkingDir": "/home/nonroot"}' "12.$3" "$1/layer.tar" "${more[@]}"
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
