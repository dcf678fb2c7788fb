# shellcheck shell=bash
# The checks after the cascade. Each prints a line; `check_everything` fails if any of them failed.

# Saves the state before the base is patched.
remember_state() {
  images_before=$(observe | jq '.items | map({key: .spec.image, value: {digest: .status.digest, build: .status.build, tags: .status.tags}}) | from_entries')
  cascades_before=$(cascades | jq '[.items[].metadata.name]')
}

cascades() { kubectl --request-timeout 10s -n "$namespace" get cascades -o json; }

failures=0
# check WHAT GOT WANTED
check() {
  if [ "$2" = "$3" ]; then
    printf '  ok      %s\n' "$1"
  else
    printf '  FAILED  %s\n          wanted: %s\n          got:    %s\n' "$1" "${3:0:400}" "${2:0:400}"
    failures=$((failures + 1))
  fi
}

# digest_in_registry REPOSITORY:TAG: the digest of a tag that the family names. The registry has
# another name for this machine than for pods.
digest_in_registry() { crane digest "$REGISTRY/${1#*/}" 2>&1; }

# Sets `cascades` to the cascades since the patch when none of them runs. Their records are written
# at most once a second.
wait_for_records() {
  local deadline=$((SECONDS + 15))
  while :; do
    new_cascades
    jq -e 'length > 0 and all(.status.phase != "Running")' <<<"$cascades" >/dev/null && return
    ((SECONDS < deadline)) || return 0
    sleep 0.2
  done
}

new_cascades() {
  cascades=$(cascades | jq -c --argjson before "$cascades_before" '[.items[] | select(.metadata.name as $name | $before | index($name) | not)]')
}

check_cascade() {
  local names
  wait_for_records
  check "one cascade" "$(jq length <<<"$cascades")" 1
  check "it is complete" "$(jq -r '.[0].status.phase' <<<"$cascades")" Complete
  check "its cause is the upstream debian, now at the pushed digest" \
    "$(jq -r '.[0].spec.causes[] | "\(.type) \(.name) \(.to)"' <<<"$cascades")" "Upstream debian $patched_digest"
  names=$(jq -r 'keys | join(" ")' <<<"$images_before")
  check "it built every image: $names" "$(jq -r '[.[0].status.images[]?.name] | sort | join(" ")' <<<"$cascades")" "$names"
  check "each exactly once" "$(jq -c '[.[0].status.images[]?.builds] | unique' <<<"$cascades")" '[1]'
}

check_images() {
  local images=$1
  check "every ManagedImage is Current" "$(jq -r '[.items[].status.state] | unique | join(" ")' <<<"$images")" Current
  check "every image has its next build number" \
    "$(jq -c '.items | map({key: .spec.image, value: .status.build}) | from_entries' <<<"$images" | jq -cS .)" \
    "$(jq -cS 'map_values(.build + 1)' <<<"$images_before")"
}

check_tags() {
  local images=$1 repository tag digest moved=0 kept=0 wrong=''
  while IFS=$'\t' read -r repository tag digest; do
    if [ "$(digest_in_registry "$repository:$tag")" = "$digest" ]; then moved=$((moved + 1)); else wrong+="$repository:$tag "; fi
  done < <(jq -r '.items[] | .spec.repository as $repository | .status | .digest as $digest
    | .tags[]? | [$repository, .tag, $digest] | @tsv' <<<"$images")
  check "$moved tags point to the new digests in the registry" "$wrong" ""
  check "three tags per image" "$moved" "$(jq '.items | length * 3' <<<"$images")"
  wrong=''
  while IFS=$'\t' read -r repository tag digest; do
    if [ "$(digest_in_registry "$repository:$tag")" = "$digest" ]; then kept=$((kept + 1)); else wrong+="$repository:$tag "; fi
  done < <(jq -r --argjson before "$images_before" '.items[] | .spec.repository as $repository | $before[.spec.image]
    | .digest as $digest | .tags[]? | select(.immutable) | [$repository, .tag, $digest] | @tsv' <<<"$images")
  check "$kept tags that name the previous build still point to its digest" "$wrong" ""
}

# check_layers BASE REPOSITORY RESULT: the layers of the patched base in a repository are the lowest
# ones of the result.
check_layers() {
  local base=$1 repository=$2 result=$3 wanted got
  wanted=$(crane config "$REGISTRY/$repository@$patched_digest" | jq -c .rootfs.diff_ids)
  got=$(crane config "$REGISTRY/${result#*/}" | jq -c --argjson base "$wanted" '.rootfs.diff_ids[:($base | length)]')
  check "the layers of $base are the lowest of the application's image" "$got" "$wanted"
}

check_workload() {
  local images=$1 wanted deployment
  wanted=$(jq -r --arg image "$application" '.items[] | select(.spec.image == $image) | "\(.spec.repository)@\(.status.digest)"' <<<"$images")
  deployment=$(kubectl -n "$namespace" get deployment "$application" -o json)
  check "the Deployment runs the new digest" "$(jq -r '.spec.template.spec.containers[0].image' <<<"$deployment")" "$wanted"
  check "its pods are ready" "$(jq -r '"\(.status.updatedReplicas) \(.status.readyReplicas)"' <<<"$deployment")" \
    "$(jq -r '"\(.spec.replicas) \(.spec.replicas)"' <<<"$deployment")"
  check_layers "the patched base" library/debian "$wanted"
  check "the page answers from the patched base" "$(page | jq -r '.debian | sub("^.* patch "; "")')" "$patch_number"
}

check_everything() {
  local images
  images=$(observe)
  check_cascade
  check_images "$images"
  check_tags "$images"
  check_workload "$images"
  [ "$failures" = 0 ] || { explain; die "$failures checks failed"; }
}

summary() {
  local images levels
  images=$(jq '.[0].status.images | length' <<<"$cascades")
  levels=$(jq '.[0].spec.levels | length' <<<"$cascades")
  cat <<END
  images rebuilt              $images on $levels levels
  builds per image            $(jq -r '[.[0].status.images[] | "\(.name) \(.builds)"] | join(", ")' <<<"$cascades")
  from push to last image     $(as_seconds "$last_image_after") s
  from push to patched page   $(as_seconds "$page_after") s
  everything                  $(as_seconds "$(tenths_since "$started_at")") s

To look around:  eval "\$(dev/cluster env --name $GROUNDSWELL_CLUSTER)" && kubectl -n $namespace get imgfam,mimg,cascades
To clean up:     make demo-down
END
}
