# Shared by the scripts here: what they need, how they say what is missing, where the programs are.
# Sourced, not run. Sets: top, cargo, bin.

set -euo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "needs root for network namespaces and XDP: run 'sudo testbed/$(basename "$0")'"
}

# The kernel must have AF_XDP, namespaces and veth; each is tried, not guessed.
need_kernel() {
    local ns="sumun-probe-$$"
    ip netns add "$ns" 2>/dev/null || die "this kernel has no network namespaces (CONFIG_NET_NS)"
    local veth=yes
    ip -n "$ns" link add name probe0 type veth peer name probe1 2>/dev/null || veth=no
    ip netns del "$ns"
    [ $veth = yes ] || die "this kernel has no veth devices (CONFIG_VETH): load them with 'modprobe veth'"
    python3 - <<'PY' || die "this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS): use Linux 5.11 or newer, as Debian 12 has"
import socket
socket.socket(44, socket.SOCK_RAW, 0).close()
PY
}

# Debian packages, installed only where something is missing.
need_packages() {
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || die "install these packages first: ${missing[*]}"
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: ${missing[*]}"
    fi
    rm -f "$log"
}

build_packages=(clang llvm m4 make gcc libc6-dev gcc-multilib pkg-config libelf-dev zlib1g-dev libbpf-dev)
run_packages=(iproute2 ethtool procps python3-minimal)

# cargo of the user who called sudo, of root, or of the PATH.
find_cargo() {
    local user home
    user=${SUDO_USER:-$(id -un)}
    home=$(getent passwd "$user" | cut -d: -f6)
    export HOME=${HOME:-$home}
    for cargo in "$(command -v cargo || true)" "$home/.cargo/bin/cargo" /root/.cargo/bin/cargo /usr/local/cargo/bin/cargo; do
        [ -x "$cargo" ] || continue
        case $cargo in "$home"/*) export CARGO_HOME=${CARGO_HOME:-$home/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup} ;; esac
        PATH="$(dirname "$cargo"):$PATH"
        return
    done
    die "no Rust toolchain found for $user: install one from rustup.rs (curl --proto '=https' -sSf https://sh.rustup.rs | sh)"
}

# rustfmt and clippy, which a minimal toolchain lacks.
need_components() {
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        die "the Rust toolchain lacks rustfmt or clippy: run 'rustup component add rustfmt clippy'"
}

# What root has built belongs to the owner of the checkout again.
give_back() {
    local owner
    owner=$(stat -c %u:%g "$top")
    if [ "$owner" != 0:0 ] && [ -d "$top/target" ]; then chown -R "$owner" "$top/target"; fi
}
