# Packages to install elsewhere, and their checks: `./dev package [--check]` reads this file.

source packages/install.sh

# Both libraries as they are shipped: built apart, and with no path of this machine in them, so that any machine makes the same.
build_to_ship() {
    local RUSTFLAGS cargo=${CARGO_HOME:-$HOME/.cargo}
    # The last that fits counts, and what is built may be in a folder of the tree.
    RUSTFLAGS="--remap-path-prefix=$root=. --remap-path-prefix=$cargo=cargo --remap-path-prefix=$(rustc --print sysroot)=rust"
    export RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$1=target" CARGO_TARGET_DIR=$1 CARGO_INCREMENTAL=0
    export CFLAGS="-ffile-prefix-map=$root=. -ffile-prefix-map=$cargo=cargo -ffile-prefix-map=$1=target"
    claim_target "$1"
    cargo build --quiet --release --locked -p pg_sync ${pg_features[@]+"${pg_features[@]}"}
    cargo build --quiet --release --locked -p sqlite_sync
    strip --strip-unneeded -o "$1/pg_sync.so" "$1/release/libpg_sync.so"
    strip --strip-unneeded -o "$1/libsqlite_sync.so" "$1/release/libsqlite_sync.so"
    if grep -aoE "($cargo|$root|$1)/[A-Za-z0-9_./-]*" "$1/pg_sync.so" "$1/libsqlite_sync.so" | sort -u | head -n 5 | grep .; then
        die "paths of this machine are in the libraries"
    fi
}

# A .deb for servers; for devices a zip, and a wheel and an npm package for applications, with the device's library inside.
make_packages() {
    local built=$1 out=$2 tree lib share doc name version arch needs
    rm -rf "$out"
    mkdir -p "$out"
    tree=$(mktemp -d)
    version=$(extension_version) arch=$(dpkg --print-architecture) name=postgresql-$pg_major-pg-sync
    lib=$tree/deb$("$pg_config" --pkglibdir) share=$tree/deb$("$pg_config" --sharedir)/extension doc=$tree/deb/usr/share/doc/$name
    mkdir -p "$lib" "$share" "$doc" "$tree/deb/DEBIAN"
    install -m 644 "$built/pg_sync.so" "$lib/pg_sync.so"
    install_scripts "$share"
    {
        printf 'pg_sync is yours under the MIT licence or the Apache License, Version 2.0, as you choose.\n\n'
        cat LICENSE-MIT LICENSE-APACHE
        echo
        /usr/bin/python3 packages/pack.py third-party pg_sync
    } >"$doc/copyright"
    install -m 644 CHANGELOG.md docs/operations.md "$doc/"
    (cd "$tree/deb" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    needs=$(objdump -T "$built/pg_sync.so" | sed -n 's/.*(GLIBC_\([0-9.]*\)).*/\1/p' | sort -V | tail -n 1)
    cat >"$tree/deb/DEBIAN/control" <<CONTROL
Package: $name
Version: $version
Architecture: $arch
Maintainer: the pg_sync maintainers <maintainers@pg-sync.example>
Depends: postgresql-$pg_major, libc6 (>= $needs)
Installed-Size: $(du -k --apparent-size -s "$tree/deb/usr" | cut -f 1)
Section: database
Priority: optional
Description: buckets of rows that any number of SQLite databases hold and write to
 The server's half of pg_sync: CREATE EXTENSION pg_sync, then say which rows
 form which bucket and who may hold it.
CONTROL
    chmod -R u=rwX,go=rX "$tree/deb"
    # The order of files and the times in it are dpkg-deb's: by name, and SOURCE_DATE_EPOCH.
    dpkg-deb --root-owner-group -Zxz --build "$tree/deb" "$out/${name}_${version}_$arch.deb" >/dev/null
    /usr/bin/python3 packages/pack.py device "$built/libsqlite_sync.so" "$out"
    rm -rf "$tree"
    (cd "$out" && sha256sum -- *.deb *.tgz *.whl *.zip >SHA256SUMS)
}

package() {
    local built out=$root/target/packages passed=0
    case ${1:-} in "" | --check) ;; *) die "package takes nothing or --check" ;; esac
    setup
    built=$CARGO_TARGET_DIR/ship-pg$pg_major
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
    export SOURCE_DATE_EPOCH
    say "building what is shipped"
    (build_to_ship "$built")
    make_packages "$built" "$out"
    cat "$out/SHA256SUMS"
    if [ "${1:-}" = --check ]; then check_packages "$out"; fi
}

# Builds the same sources in another folder: the same bytes have to come out. Then installs each package as its users would, uses it, and
# removes it again.
check_packages() {
    local out=$1 folder version
    version=$(extension_version)
    folder=$(mktemp -d)
    chmod 755 "$folder"
    check_bytes "$out" "$folder/elsewhere"
    check_licences "$out"
    check_deb "$out" "$folder"
    /usr/bin/python3 -m zipfile -e "$out"/sqlite_sync-*.zip "$folder"
    worked "the zip" "$(loaded "$(echo "$folder"/sqlite_sync-*/libsqlite_sync.so)")"
    check_applications "$out" "$folder"
    as_root rm -rf "$folder"
    say "the packages work"
    echo "$passed passed, 0 failed"
}

worked() {
    [ "$2" = "$version" ] || die "$1 does not work: $2"
    passed=$((passed + 1))
}

# What a library says in sqlite3.
loaded() { sqlite3 :memory: ".load $1" "SELECT sync_version()"; }

check_bytes() {
    local out=$1 copy=$2
    mkdir -p "$copy"
    git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- -c | tar -C "$copy" -x
    say "building it once more, in another folder"
    (cd "$copy" && CARGO_TARGET_DIR=$copy/built ./dev package >/dev/null)
    diff "$out/SHA256SUMS" "$copy/target/packages/SHA256SUMS" >&2 || die "two builds gave different packages: see $copy"
    passed=$((passed + 1))
    rm -rf "$copy"
}

# Each package says whose code is in it.
check_licences() {
    local package texts
    for package in "$1"/*.deb "$1"/*.zip "$1"/*.whl "$1"/*.tgz; do
        case $package in
            *.deb) texts=$(dpkg-deb --fsys-tarfile "$package" | tar -xO --wildcards '*/copyright') ;;
            *.tgz) texts=$(tar -xOzf "$package" package/LICENSE-MIT package/LICENSE-APACHE package/THIRD-PARTY) ;;
            *) texts=$(/usr/bin/python3 -c 'import sys, zipfile
package = zipfile.ZipFile(sys.argv[1])
for name in package.namelist():
    if name.endswith(("LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY")): print(package.read(name).decode())' "$package") ;;
        esac
        grep -q 'Permission is hereby granted' <<<"$texts" && grep -q 'Version 2.0, January 2004' <<<"$texts" &&
            grep -q '^zstd-sys [0-9.+a-z]*: BSD-3-Clause' <<<"$texts" && grep -q 'Copyright (c) Meta Platforms' <<<"$texts" ||
            die "${package##*/} lacks licences"
        passed=$((passed + 1))
    done
}

# Installs the .deb, makes the extension in a new cluster, and removes all of it.
check_deb() {
    local out=$1 folder=$2 answer name=postgresql-$pg_major-pg-sync as_postgres=() bin
    bin=$("$pg_config" --bindir)
    if [ "$bin" != "/usr/lib/postgresql/$pg_major/bin" ]; then
        say "skipped: the .deb is not installed, since this Postgres $pg_major is not Debian's"
        return 0
    fi
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' && die "$name is installed already: remove it first"
    [ ! -e "$("$pg_config" --pkglibdir)/pg_sync.so" ] || die "pg_sync is installed already, by ./dev install: remove it first"
    as_root dpkg -i "$out/$name"_*.deb >&2
    if [ "$(id -u)" = 0 ]; then as_postgres=(runuser -u postgres --); chown postgres "$folder"; fi
    answer=$(
        cd /
        "${as_postgres[@]}" "$bin/initdb" -D "$folder/data" -E UTF8 --locale=C -A trust -U postgres >/dev/null &&
            "${as_postgres[@]}" "$bin/pg_ctl" -D "$folder/data" -l "$folder/data/log" -w \
                -o "-c listen_addresses='' -c unix_socket_directories='$folder'" start >/dev/null &&
            "${as_postgres[@]}" "$bin/psql" -h "$folder" -U postgres -Atqc \
                "CREATE EXTENSION pg_sync; SELECT extversion FROM pg_extension WHERE extname = 'pg_sync' AND sync.user_id() = 'postgres'"
        "${as_postgres[@]}" "$bin/pg_ctl" -D "$folder/data" -w stop >/dev/null
    ) || true
    as_root dpkg -r "$name" >&2
    worked "the .deb" "$answer"
    [ ! -e "$("$pg_config" --pkglibdir)/pg_sync.so" ] || die "the .deb left something"
}

# The packages for applications, each in an environment of its own, without the network.
check_applications() {
    local out=$1 folder=$2
    /usr/bin/python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --no-index --no-deps "$out"/*.whl
    worked "the wheel" "$(env -u SYNC_LIBRARY "$folder/venv/bin/python" -c 'from pg_sync_client.sqlite import *
print(value(open_connection(":memory:", library_path()), "SELECT sync_version()"))')"
    if ! command -v npm >/dev/null; then
        say "skipped: the npm package is not installed, since there is no npm"
        return 0
    fi
    mkdir "$folder/node"
    (cd "$folder/node" && npm install --silent --no-audit --no-fund --offline --omit=peer --legacy-peer-deps "$out"/*.tgz >/dev/null)
    worked "the npm package" "$(loaded "$(cd "$folder/node" && env -u SYNC_LIBRARY node --input-type=module \
        -e 'import { libraryPath } from "@pg-sync/client"; console.log(libraryPath())')")"
}
