# What the example clients need, and their run: `./dev clients` and `./dev test` read this file.

source packages/static.sh

# What the example clients need, only what is missing. What cannot be had is no failure: its client is skipped, and says why.
client_packages() {
    local dir=$cache/clients
    mkdir -p "$dir"
    if command -v dpkg-query >/dev/null; then
        install_missing curl golang-go golang-github-mattn-go-sqlite3-dev default-jdk-headless libxerial-sqlite-jdbc-java \
            php-cli php-sqlite3 ruby ruby-sqlite3 || say "some packages of the clients could not be installed"
    fi
    if ! "$dir/python/bin/python" -c 'import apsw' 2>/dev/null; then
        say "installing apsw"
        /usr/bin/python3 -m venv "$dir/python" && "$dir/python/bin/pip" install --quiet apsw </dev/null >&2 || true
    fi
    node_packages
    types_packages
    sqlite_without_loading
}

# A SQLite that cannot load extensions, from the sources that rusqlite brings, to link the extension with.
sqlite_without_loading() {
    local dir=$cache/clients/sqlite version sources
    version=$(sed -n '/^name = "libsqlite3-sys"/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock | tail -n 1)
    sources=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/libsqlite3-sys-"$version"/sqlite3 2>/dev/null | head -n 1)
    [ -n "$sources" ] && ! cmp -s "$sources/sqlite3.h" "$dir/sqlite3.h" || return 0
    say "compiling a SQLite without load_extension"
    mkdir -p "$dir"
    cc -O0 -DSQLITE_OMIT_LOAD_EXTENSION -c "$sources/sqlite3.c" -o "$dir/sqlite3.o"
    cp "$sources/sqlite3.h" "$sources/sqlite3ext.h" "$dir/"
}

# What the Node client needs, once: better-sqlite3, built from source, where Node has no SQLite of its own.
node_packages() {
    local dir=$cache/clients/node major
    command -v node >/dev/null && command -v npm >/dev/null || return 0
    mkdir -p "$dir"
    cp examples/clients/node/package.json "$dir/package.json"
    major=$(node --version | sed -E 's/^v([0-9]+).*/\1/')
    [ "$major" -lt 22 ] || return 0
    (cd "$dir" && node -e "require('better-sqlite3')" 2>/dev/null) && return 0
    say "installing better-sqlite3"
    # With the headers beside the installed Node nothing but packages is downloaded.
    local prefix
    prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
    if [ -d "$prefix/include/node" ]; then export npm_config_nodedir=$prefix npm_config_build_from_source=true; fi
    # To be tried here and not to be fast: compiling takes a fifth of the time.
    (export CFLAGS=-O0 CXXFLAGS=-O0 && cd "$dir" && timeout 600 npm install --no-audit --no-fund --silent </dev/null >&2) || true
}

# TypeScript, for the types of packages/node.
types_packages() {
    local dir=$cache/clients/types
    command -v npm >/dev/null || return 0
    cmp -s packages/node/package.json "$dir/package.json" && [ -x "$dir/node_modules/.bin/tsc" ] && return 0
    say "installing TypeScript"
    mkdir -p "$dir"
    cp packages/node/package.json "$dir/package.json"
    (cd "$dir" && timeout 600 npm install --omit=peer --ignore-scripts --no-audit --no-fund --silent </dev/null >&2) || true
}

build_clients() {
    client_packages
    static_library
    cargo build --quiet --release --locked -p sync-client
    cargo build --quiet --release --locked -p sync-tests --bin clients
}

clients() {
    build
    build_gateway
    build_clients
    SYNC_CLIENT_PACKAGES=$cache/clients "$CARGO_TARGET_DIR/release/clients" "$@"
}
