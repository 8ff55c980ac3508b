# The device's extension as an archive: `./dev static` and `./dev clients` read this file.

# The extension as an archive to link into a program, static/libsqlite_sync.a beside both libraries. sqlite-loadable brings a second SQLite, to
# which nothing refers: so only what the entry point needs is taken, and no other symbol can be seen from outside.
static_library() {
    local dir=$libraries/static object
    cargo rustc --quiet --release --locked -p sqlite_sync --lib --crate-type staticlib
    [ "$dir/libsqlite_sync.a" -nt "$CARGO_TARGET_DIR/release/libsqlite_sync.a" ] && return 0
    mkdir -p "$dir"
    object=$dir/sqlite_sync.o
    ld -r --gc-sections -u sqlite3_sqlitesync_init -o "$object" "$CARGO_TARGET_DIR/release/libsqlite_sync.a"
    # The compiler's own form of the code, which Rust's library has beside the machine's, is not for others.
    objcopy --keep-global-symbol=sqlite3_sqlitesync_init --strip-debug --remove-section=.llvmbc --remove-section=.llvmcmd "$object"
    [ "$(nm -g --defined-only "$object" | awk '{ print $3 }')" = sqlite3_sqlitesync_init ] ||
        die "the archive would have other symbols than sqlite3_sqlitesync_init"
    if nm -u "$object" | grep ' sqlite3_'; then die "the archive would call SQLite past the table that it is given"; fi
    rm -f "$dir/libsqlite_sync.a"
    ar rcsD "$dir/libsqlite_sync.a" "$object"
    rm "$object"
}
