# shellcheck shell=bash
# Shell functions shared by ./run and ./test: a Python, the project's own virtual environment,
# and the system packages the tests use. Sourced, never executed. Nothing here runs as root
# unless something is missing, and each function that needs root says what it would install.

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "tandemu: $*"
    exit 1
}

# as_root COMMAND...: run it as root, directly or through a sudo that asks no question.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        sudo "$@"
    else
        return 125
    fi
}

have_apt() { command -v apt-get >/dev/null 2>&1; }

# apt_get ARGUMENTS...: without questions, waiting for other users of the package database;
# what it prints is shown only when it fails.
apt_get() {
    local log status=0
    log=$(mktemp)
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" = 125 ]; then
        say "This needs root: you are not, and sudo would ask or is missing."
    elif [ "$status" != 0 ]; then
        tail -n 25 "$log" >&2
    fi
    rm -f "$log"
    return "$status"
}

apt_refresh() {
    [ -n "${APT_REFRESHED:-}" ] && return 0
    say "Refreshing the package lists"
    apt_get update || return $?
    APT_REFRESHED=1
}

# apt_install [-t SUITE] PACKAGE...: install what is missing, or explain what to install.
apt_install() {
    local suite=() missing=() package
    if [ "$1" = -t ]; then
        suite=(-t "$2")
        missing=("${@:3}") # from a named suite: an installed older one is not enough
    else
        for package in "$@"; do
            package_installed "$package" || missing+=("$package")
        done
    fi
    [ ${#missing[@]} -eq 0 ] && return 0
    local plain="apt-get update && apt-get install ${suite[*]:+${suite[*]} }${missing[*]}"
    have_apt || fail "these system packages (named as in Debian) are missing and this system
    has no apt-get: ${missing[*]}. Install their equivalents and run this again."
    apt_refresh || fail "cannot refresh the package lists. As root, run: $plain"
    say "Installing ${missing[*]}"
    apt_get install --no-install-recommends "${suite[@]}" "${missing[@]}" ||
        fail "installing failed. As root, run: $plain"
}

package_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

package_known() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }

# ---- Python -------------------------------------------------------------------------------

python_fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

python_makes_environments() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# find_python: sets PYTHON to a Python >= 3.11 that can make virtual environments.
find_python() {
    local candidate fits=
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        python_fits "$candidate" || continue
        fits=${fits:-$candidate}
        python_makes_environments "$candidate" || continue
        PYTHON=$candidate
        return 0
    done
    if [ -n "$fits" ]; then
        # Debian and Ubuntu split ensurepip off into a package named after the version.
        local version
        version=$("$fits" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt_install "python$version-venv"
        PYTHON=$fits
    elif have_apt; then
        apt_refresh || fail "no Python >= 3.11 here, and no root to install one.
    As root, run: apt-get update && apt-get install python3 python3-venv"
        apt_install_a_python
    else
        fail "no Python >= 3.11 found. Install one and name it: PYTHON=/path/to/python3 $0"
    fi
    python_makes_environments "$PYTHON" ||
        fail "$PYTHON cannot make virtual environments (module ensurepip is missing)."
}

apt_install_a_python() {
    local default name
    default=$(apt-cache show --no-all-versions python3 2>/dev/null |
        sed -n 's/^Version: 3\.\([0-9]*\).*/\1/p')
    if [ "${default:-0}" -ge 11 ]; then
        apt_install python3 python3-venv
        PYTHON=/usr/bin/python3
        return 0
    fi
    for name in python3.14 python3.13 python3.12 python3.11; do
        if package_known "$name-venv"; then
            apt_install "$name" "$name-venv"
            PYTHON=/usr/bin/$name
            return 0
        fi
    done
    fail "this system's packages offer no Python >= 3.11. Install one and name it:
    PYTHON=/path/to/python3 $0"
}

# ---- the project's own virtual environment ------------------------------------------------

# ensure_environment [EXTRA]: make .venv and install the project, editable, with an extra.
ensure_environment() {
    local extra=${1:-} stamp=.venv/.installed${1:+-$1}
    if [ -x .venv/bin/python ] && ! python_fits .venv/bin/python; then
        fail ".venv holds a broken or too old Python. Remove the folder and run this again."
    fi
    if [ -e "$stamp" ] && [ "$stamp" -nt pyproject.toml ] && [ "$(cat "$stamp")" = "$PWD" ]; then
        return 0
    fi
    if [ ! -x .venv/bin/pip ]; then
        find_python
        say "Making a virtual environment in .venv with $PYTHON"
        "$PYTHON" -m venv .venv || fail "could not make .venv; see the message above."
    fi
    say "Installing Tandemu into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --editable ".${extra:+[$extra]}" || fail "pip could not install the project; see the
    message above. It needs a package index: a network, or pip's own settings for a mirror."
    printf '%s' "$PWD" >"$stamp"
}

# ---- what the tests use besides Python ----------------------------------------------------

QEMU_WANTED=10 # major version: the rival and one of the oracles

# ensure_test_packages: cross compilers, device tree compiler, cpio, tmux, network tools, GDB, QEMU.
ensure_test_packages() {
    if ! have_apt; then
        warn_of_missing_tools
        return 0
    fi
    apt_install gcc libc6-dev gcc-riscv64-linux-gnu binutils-riscv64-linux-gnu \
        gcc-aarch64-linux-gnu libc6-dev-arm64-cross \
        libc6-dev-riscv64-cross gcc-riscv64-unknown-elf device-tree-compiler cpio tmux util-linux \
        tshark iperf3 gdb-multiarch
    qemu_is_new && return 0
    local system=qemu-system-misc # where older releases keep the RISC-V machine
    if [ "$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")" = bookworm ]; then
        add_backports bookworm
        apt_install -t bookworm-backports qemu-system-riscv qemu-system-arm \
            qemu-system-x86 seabios qemu-user qemu-utils
    else
        apt_refresh || fail "cannot refresh the package lists to look for QEMU."
        package_known qemu-system-riscv && system=qemu-system-riscv
        apt_install "$system" qemu-system-arm qemu-system-x86 seabios qemu-user qemu-utils
    fi
    qemu_is_new ||
        say "Note: this system's QEMU is older than $QEMU_WANTED; the benchmarks print its version."
}

# On systems without apt the tests run with what there is; those that miss a tool are skipped.
warn_of_missing_tools() {
    local tool missing=()
    for tool in qemu-system-riscv64 qemu-system-aarch64 qemu-system-x86_64 qemu-riscv64 riscv64-linux-gnu-gcc dtc cpio tmux taskset; do
        command -v "$tool" >/dev/null 2>&1 || missing+=("$tool")
    done
    [ ${#missing[@]} -eq 0 ] ||
        say "Note: not found here, and tests that use them are skipped: ${missing[*]}"
}

qemu_is_new() {
    local tool version
    for tool in qemu-riscv64 qemu-img qemu-system-x86_64 qemu-system-aarch64; do
        command -v "$tool" >/dev/null 2>&1 || return 1
    done
    version=$(qemu-system-riscv64 --version 2>/dev/null |
        sed -n 's/.*version \([0-9]*\)\..*/\1/p;q') || return 1
    [ "${version:-0}" -ge "$QEMU_WANTED" ]
}

# add_backports CODENAME: a sources file for CODENAME-backports on the mirror this system's own
# apt configuration already names for CODENAME.
add_backports() {
    local codename=$1 target mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    local listing
    # shellcheck disable=SC2016  # apt's own variables
    listing=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' \
        'Created-By: Packages')
    if grep -q "^$codename-backports main " <<<"$listing"; then return 0; fi
    mirror=$(sed -n "s/^$codename main //p" <<<"$listing" | head -n 1)
    [ -n "$mirror" ] || fail "apt's configuration names no mirror for $codename main, so
    $codename-backports (QEMU $QEMU_WANTED) cannot be added. Add it, or install QEMU $QEMU_WANTED."
    target=/etc/apt/sources.list.d/tandemu-$codename-backports.sources
    say "Adding $codename-backports to apt's sources ($target)"
    {
        printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n' \
            "$mirror" "$codename"
        [ -e "$keyring" ] && printf 'Signed-By: %s\n' "$keyring"
    } | as_root tee "$target" >/dev/null || fail "cannot write $target"
    APT_REFRESHED=
    apt_refresh || fail "cannot refresh the package lists."
}
