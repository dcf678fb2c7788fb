#!/bin/sh
# Runs one buildctl command against a BuildKit daemon that lives just as long: the entry point that
# build pods use, with the environment variables of the official image (BUILDCTL, BUILDKITD,
# BUILDKITD_FLAGS, BUILDCTL_CONNECT_RETRIES_MAX).
set -eu
folder=$(mktemp -d)
address=unix://$folder/buildkitd.sock
daemon=
finish() {
  code=$?
  trap - EXIT
  if [ -n "$daemon" ]; then
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  # A failing daemon's last words are the only explanation there is.
  if [ "$code" != 0 ] && [ -z "${connected:-}" ]; then cat "$folder/log" >&2; fi
  rm -rf "$folder"
  exit "$code"
}
trap finish EXIT
trap 'exit 143' TERM INT

# Unquoted on purpose: it is a list of flags.
# shellcheck disable=SC2086
${BUILDKITD:-buildkitd} ${BUILDKITD_FLAGS:-} --addr "$address" >"$folder/log" 2>&1 &
daemon=$!
tries=0
until ${BUILDCTL:-buildctl} --addr "$address" debug workers >/dev/null 2>&1; do
  kill -0 "$daemon" 2>/dev/null || { echo "buildkitd ended" >&2; exit 1; }
  tries=$((tries + 1))
  if [ "$tries" -ge "${BUILDCTL_CONNECT_RETRIES_MAX:-100}" ]; then echo "buildkitd does not answer" >&2; exit 1; fi
  sleep 0.1
done
connected=1
${BUILDCTL:-buildctl} --addr "$address" "$@"
