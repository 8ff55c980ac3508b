# What single tests need from elsewhere, kept in the cache: `./dev test` reads this file. Each answers where it is, and nothing where
# it cannot be had: then the tests are skipped, and say so.

# The AT Protocol's own packages, whose tokens the security tests verify. Answers their folder, nothing without Node.
atproto_packages() {
    local dir=$cache/atproto
    command -v node >/dev/null && command -v npm >/dev/null || return 0
    if ! cmp -s tests/atproto/package.json "$dir/package.json" || [ ! -d "$dir/node_modules/@atproto/xrpc-server" ]; then
        say "installing the AT Protocol's packages"
        mkdir -p "$dir"
        cp tests/atproto/package.json "$dir/package.json"
        (cd "$dir" && timeout 600 npm install --no-audit --no-fund --silent </dev/null >&2) || return 0
    fi
    echo "$dir"
}

# Builds of SQLite that encrypt their files, for the security tests. Answers the python that has them, nothing where they cannot be had.
cipher_packages() {
    local dir=$cache/ciphers
    if ! cmp -s tests/encrypted/requirements.txt "$dir/requirements.txt"; then
        say "installing builds of SQLite that encrypt"
        rm -rf "$dir"
        /usr/bin/python3 -m venv "$dir" && "$dir/bin/pip" install --quiet --only-binary=:all: -r tests/encrypted/requirements.txt \
            </dev/null >&2 && cp tests/encrypted/requirements.txt "$dir/requirements.txt" || return 0
    fi
    echo "$dir/bin/python"
}

# A Python with the newest SQLite inside: answers its path, nothing where there is none to be had.
apsw_python() {
    local version=3.54.1.0
    local venv=$cache/apsw-$version
    if [ ! -x "$venv/bin/python" ]; then
        say "installing apsw $version"
        rm -rf "$venv.new"
        /usr/bin/python3 -m venv "$venv.new" && "$venv.new/bin/pip" install --quiet --only-binary=:all: "apsw==$version" >&2 || return 0
        mv "$venv.new" "$venv"
    fi
    echo "$venv/bin/python"
}

# pgbouncer for the tests of the gateway: Debian's program unpacked beside our own things, so that no service is installed or started.
# Answers where it is, nothing where it cannot be had.
pgbouncer_program() {
    local dir=$cache/pgbouncer
    if command -v pgbouncer; then return 0; fi
    if [ ! -x "$dir/pgbouncer" ] && command -v apt-get >/dev/null; then
        say "unpacking pgbouncer"
        mkdir -p "$dir/packages"
        (
            cd "$dir/packages"
            apt-get download -qq pgbouncer libevent-2.1-7 libc-ares2 2>/dev/null ||
                { as_root apt-get update -qq && apt-get download -qq pgbouncer libevent-2.1-7 libc-ares2; }
            for package in *.deb; do dpkg-deb -x "$package" "$dir/unpacked"; done
        ) </dev/null >&2 || return 0
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$dir/unpacked/usr/lib/$(uname -m)-linux-gnu" "$dir/unpacked/usr/sbin/pgbouncer" \
            >"$dir/pgbouncer"
        chmod 755 "$dir/pgbouncer"
    fi
    if "$dir/pgbouncer" --version >/dev/null 2>&1; then echo "$dir/pgbouncer"; fi
}
