#!/usr/bin/env bash
# Installs those of the named programs that are missing: what tests and pictures drive and no wheel has.
#   tests/programs.sh chromium curl
# As root, with apt-get. Elsewhere it says what to install; tests then skip what needs it, or fail in CI.
set -euo pipefail

declare -A package=([promtool]=prometheus) # the others are named as their packages
export PATH="$PATH:/usr/sbin"              # where Debian has its servers

# Any of these is a Chromium.
is_there() {
    command -v "$1" >/dev/null || { [ "$1" = chromium ] && command -v chromium-browser google-chrome >/dev/null; }
}

missing=()
for program in "$@"; do
    is_there "$program" || missing+=("${package[$program]:-$program}")
done
((${#missing[@]})) || exit 0

install="apt-get install --no-install-recommends ${missing[*]}"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing ${missing[*]} (once)"
    # Tests start servers of their own. This keeps Debian's packages from starting, and stopping, any.
    policy=${POLICY:-/usr/sbin/policy-rc.d}
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && $install -y -qq >/dev/null && exit 0
    echo "Installing failed, see above; by hand, on Debian: $install" >&2
else
    echo "Not installed: ${missing[*]}. What needs it is left out; on Debian, as root: $install" >&2
fi
