# What CREATE EXTENSION reads, and putting it into a Postgres: `./dev install`, `./dev install-script` and `./dev release` read this file.

extension_version() { sed -n "s/^default_version *= *'\(.*\)'/\1/p" pg_sync/pg_sync.control; }

# What CREATE EXTENSION runs: sql/*.sql in the order of their names.
install_script() {
    local file
    for file in sql/*.sql; do
        cat "$file"
        echo
    done
}

# Copies a file, as root only where the folder is not ours.
put() {
    if [ -w "$2" ]; then install -m "$3" "$1" "$2/$4"; else as_root install -m "$3" "$1" "$2/$4"; fi
}

# Control file, install script and updates, into a folder.
install_scripts() {
    local file script
    script=$(mktemp)
    install_script >"$script"
    put pg_sync/pg_sync.control "$1" 644 pg_sync.control
    put "$script" "$1" 644 "pg_sync--$(extension_version).sql"
    for file in sql/upgrade/*.sql; do
        if [ -e "$file" ]; then put "$file" "$1" 644 "${file##*/}"; fi
    done
    rm -f "$script"
}

install_extension() {
    build
    local lib share
    lib=$("$pg_config" --pkglibdir)
    share=$("$pg_config" --sharedir)/extension
    put "$libraries/libpg_sync.so" "$lib" 755 pg_sync.so
    install_scripts "$share"
    say "installed pg_sync $(extension_version) into Postgres $pg_major: CREATE EXTENSION pg_sync;"
}

# Keeps this version's install script for the tests of later updates, and the list of what is never edited again. For a release.
release() {
    local version
    version=$(extension_version)
    [ ! -e "sql/released/pg_sync--$version.sql" ] ||
        die "$version was released already: raise default_version in pg_sync/pg_sync.control and version in Cargo.toml"
    mkdir -p sql/released
    install_script >"sql/released/pg_sync--$version.sql"
    (cd sql && find . -regex '\./\(released\|upgrade\)/.*\.sql' -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >released/SHA256SUMS)
    say "kept sql/released/pg_sync--$version.sql: commit it with the tag v$version"
}
