# shellcheck shell=bash
# Writing images as OCI layouts with nothing but tar, gzip, sha256sum and jq, and pushing them.
#
# An image is an index with one entry, as the images on public registries are, so that platform
# rules see what they will see there. Times are zero and files sorted: the same content gives the
# same digest.

architecture=$(dpkg --print-architecture)
layouts=${GROUNDSWELL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/groundswell}/images

say() { printf '[images] %s\n' "$*" >&2; }

# pack FOLDER LAYER.TAR: the folder as an uncompressed layer, owners kept.
pack() {
  tar --create --file "$2" --directory "$1" --sort=name --mtime=@0 --numeric-owner --one-file-system --format=posix \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime .
}

# store_blob LAYOUT FILE: moves the file into the layout; sets `digest` and `size`.
store_blob() {
  digest=$(sha256sum "$2" | cut -d ' ' -f 1)
  size=$(stat -c %s "$2")
  mv "$2" "$1/blobs/sha256/$digest"
  digest=sha256:$digest
}

# write_layout LAYOUT CONFIG VERSION LAYER.TAR...: CONFIG is the JSON of the image's `config`
# object, VERSION goes into the index's annotations. Consumes the layers.
write_layout() {
  local layout=$1 config=$2 version=$3 layer digest size diff_ids='[]' layers='[]'
  shift 3
  mkdir -p "$layout/blobs/sha256"
  for layer in "$@"; do
    diff_ids=$(jq -c --arg id "sha256:$(sha256sum "$layer" | cut -d ' ' -f 1)" '. + [$id]' <<<"$diff_ids")
    gzip -n -1 "$layer"
    store_blob "$layout" "$layer.gz"
    layers=$(jq -c --arg digest "$digest" --argjson size "$size" \
      '. + [{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", $digest, $size}]' <<<"$layers")
  done
  jq -cn --argjson config "$config" --argjson ids "$diff_ids" --arg architecture "$architecture" \
    '{$architecture, os: "linux", created: "1970-01-01T00:00:00Z", $config, rootfs: {type: "layers", diff_ids: $ids}}' >"$layout/part"
  store_blob "$layout" "$layout/part"
  jq -cn --arg digest "$digest" --argjson size "$size" --argjson layers "$layers" \
    '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: {mediaType: "application/vnd.oci.image.config.v1+json", $digest, $size}, $layers}' >"$layout/part"
  store_blob "$layout" "$layout/part"
  jq -cn --arg digest "$digest" --argjson size "$size" --arg architecture "$architecture" --arg version "$version" \
    '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
      manifests: [{mediaType: "application/vnd.oci.image.manifest.v1+json", $digest, $size, platform: {$architecture, os: "linux"}}],
      annotations: {"org.opencontainers.image.version": $version}}' >"$layout/index.json"
  echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
}

# cached_layout NAME KEY_FILES... -- FUNCTION ARGUMENTS...: sets `layout` to the image's folder in
# the cache, made by `FUNCTION WORK_FOLDER LAYOUT ARGUMENTS...` when the files and arguments have no
# folder there yet.
cached_layout() {
  local image=$1 files=() key work started=$SECONDS
  shift
  while [ "$1" != -- ]; do files+=("$1"); shift; done
  shift
  key=$({ cat "${files[@]}"; echo "$architecture $*"; } | sha256sum)
  layout=$layouts/$image-${key:0:16}
  [ ! -d "$layout" ] || return 0
  mkdir -p "$layouts"
  exec {building}>"$layouts/.$image.lock"
  flock "$building"
  if [ ! -d "$layout" ]; then
    work=$(mktemp -d "$layouts/.work.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf --one-file-system '$work'" EXIT
    say "$image: building"
    mkdir "$work/layout" "$work/root"
    chmod 0755 "$work/root"
    "$1" "$work" "$work/layout" "${@:2}"
    mv -T "$work/layout" "$layout"
    rm -rf --one-file-system "$work"
    trap - EXIT
    say "$image: built in $((SECONDS - started)) s"
  fi
  exec {building}>&-
}

# Sets `registry` to the address of the registry of cluster $1.
find_registry() {
  local parameters=/run/groundswell/$1/parameters
  [ -f "$parameters" ] || { say "cluster $1 does not run: start it with 'dev/cluster up --name $1'"; exit 1; }
  # shellcheck disable=SC1090
  registry=$(source "$parameters"; echo "$node_address:$registry_port")
  PATH=$("$dev/tools/build" --path crane):$PATH
}

# push REFERENCE [TAG...]: what is in `layout`, under a reference and more tags.
push() {
  local reference=$registry/$1 tag
  shift
  crane push --index "$layout" "$reference" >/dev/null 2>"$layouts/.push.log" || { cat "$layouts/.push.log" >&2; return 1; }
  for tag in "$@"; do crane tag "$reference" "$tag" 2>/dev/null; done
  say "pushed $reference@sha256:$(sha256sum "$layout/index.json" | cut -d ' ' -f 1)"
}
