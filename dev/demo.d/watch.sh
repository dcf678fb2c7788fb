# shellcheck shell=bash
# Watches the family until a condition is met, and shows what changes meanwhile.

# Prints a line of tab-separated fields for each image, parents first: level, name, state, build,
# digest, seconds in the state, message.
rows() {
  jq -r --arg family "$family" '
    .items | map(select(.spec.family == $family)) | sort_by(.spec.level, .spec.image)[]
    | [.spec.level, .spec.image, .status.state // "-", (.status.build // "-"),
       (.status.digest // "-" | ltrimstr("sha256:") | .[:12]),
       (if .status.since then (now - (.status.since | sub("\\.[0-9]+"; "") | fromdateiso8601) | floor | if . < 0 then 0 else . end) else "-" end),
       (.status.message // "" | gsub("[\n\t]"; " ") | if . == "" then "-" else . end)] | @tsv' <<<"$1"
}

observe() { kubectl --request-timeout 10s -n "$namespace" get managedimages -o json; }

if [ -t 1 ]; then live=1; else live=0; fi
if [ $live = 1 ] && [ -z "${NO_COLOR:-}" ]; then
  declare -A paint=([Current]=$'\e[32m' [Building]=$'\e[33m' [Checking]=$'\e[33m' [Failed]=$'\e[31m' [Blocked]=$'\e[31m')
  plain=$'\e[0m'
else
  declare -A paint=()
  plain=
fi

# Draws the table in place of the previous one.
draw_table() {
  local level name state build digest age message width lines=1
  width=$(tput cols 2>/dev/null || echo 120)
  [ "$drawn" = 0 ] || printf '\e[%dA' "$drawn"
  printf '\e[K%-5s %-18s %-9s %5s  %-12s %9s  %s\n' LEVEL IMAGE STATE BUILD DIGEST STATE-AGE MESSAGE
  while IFS=$'\t' read -r level name state build digest age message; do
    printf '\e[K%-5s %-18s %s%-9s%s %5s  %-12s %8ss  %s\n' "$level" "$name" "${paint[$state]:-}" "$state" "$plain" \
      "$build" "$digest" "$age" "${message:0:$((width > 80 ? width - 69 : 11))}"
    lines=$((lines + 1))
  done < <(rows "$1")
  printf '\e[J'
  drawn=$lines
}

# Prints a line for each image whose state or digest has changed since the last call.
print_changes() {
  local level name state build digest age message
  while IFS=$'\t' read -r level name state build digest age message; do
    if [ "${printed[$name]:-}" != "$state $digest" ]; then
      printf '[%6s s] %d %-18s %-9s %s\n' "$(as_seconds "$(tenths_since "$watch_started")")" "$level" "$name" "$state" "${message:0:120}"
      printed[$name]="$state $digest"
    fi
  done < <(rows "$1")
}

# watch_family SECONDS COMMAND: shows the images until the command succeeds, which gets their list
# as JSON. Ends the demo when an image has failed, or when the time is over.
watch_family() {
  local limit=$1 reached=$2 images failed watch_started=$EPOCHREALTIME drawn=0
  local deadline=$((SECONDS + limit))
  local -A printed=()
  while :; do
    if images=$(observe); then
      if [ $live = 1 ]; then draw_table "$images"; else print_changes "$images"; fi
      if "$reached" "$images"; then return; fi
      failed=$(jq -r '.items[] | select(.status.state == "Failed") | "\(.spec.image): \(.status.message)"' <<<"$images")
      [ -z "$failed" ] || { explain; die "failed: $failed"; }
    fi
    ((SECONDS < deadline)) || { explain; die "not finished after $limit s"; }
    sleep 0.3
  done
}

# Prints the objects and logs that explain a failure.
explain() {
  {
    kubectl -n "$namespace" get imagefamilies,managedimages,cascades
    kubectl -n "$namespace" get imagefamily "$family" -o json | jq '.status.conditions, .status.upstreams'
    kubectl -n "$namespace" get events --sort-by=.lastTimestamp | tail -n 20
    kubectl -n "$namespace" get jobs,pods
    kubectl -n "$system_namespace" logs deployment/groundswell --tail=20
  } >&2 || true
}

is_ready() {
  kubectl --request-timeout 10s -n "$namespace" get imagefamily "$family" -o json |
    jq -e '.metadata.generation == .status.observedGeneration
      and any(.status.conditions[]?; .type == "Ready" and .status == "True")' >/dev/null
}

# jq: every image is current, and its tags point to its digest.
all_current='(.items | length > 0) and all(.items[].status; .digest as $digest
  | .state == "Current" and (.tags | length > 0 and all(.[]; .digest == $digest)))'

# All images of the family are current, and the family is Ready.
is_settled() { jq -e "$all_current" <<<"$1" >/dev/null && is_ready; }

# Every image has another digest than before the patch, and is current.
is_rebuilt() {
  jq -e --argjson before "$images_before" "$all_current and all(.items[]; .status.digest != \$before[.spec.image].digest)" \
    <<<"$1" >/dev/null && is_ready
}

# The application's list of versions, as JSON, through the API server's proxy.
page() {
  kubectl --request-timeout 10s get --raw "/api/v1/namespaces/$namespace/services/$application:http/proxy/versions"
}

# wait_for_page SECONDS FILTER: waits until the filter finds something in the page.
wait_for_page() {
  local deadline=$((SECONDS + $1))
  until page 2>/dev/null | jq -e "$2" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { explain; die "the page does not give the expected answer: $(page 2>&1 | head -c 400)"; }
    sleep 0.2
  done
}
