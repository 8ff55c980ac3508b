#!/usr/bin/env bash
# Builds the device's extension for aarch64 Linux and loads it into Debian's sqlite3 for it, in qemu: `./dev cross aarch64`. With --tests the
# tests of `sqlite_sync` and `shared` are built for aarch64 as well, with Debian's SQLite for it, and run in qemu with that extension.
#
# The compiler is Debian's rustc-web, the only one in Debian 12 that is new enough and has a standard library for other processors. Its
# packages, and those of sqlite3 for aarch64, are unpacked into a folder of the cache; the system's own are left as they are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cross=${1:?the folder to work in} what=${2:-}
target=aarch64-unknown-linux-gnu

# Downloads packages for a processor with all that they depend on, and unpacks those whose names match.
unpack() {
    local arch=$1 into=$2 names=$3 file
    shift 3
    [ -e "$into/.unpacked" ] && return 0
    rm -rf "$into"
    mkdir -p "$cross/apt-$arch/lists/partial" "$cross/apt-$arch/archives/partial" "$into"
    : >"$cross/apt-$arch/status"
    cat >"$cross/apt-$arch/apt.conf" <<CONF
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
Dir::State::lists "$cross/apt-$arch/lists";
Dir::State::status "$cross/apt-$arch/status";
Dir::Cache "$cross/apt-$arch";
CONF
    APT_CONFIG=$cross/apt-$arch/apt.conf apt-get update -qq
    APT_CONFIG=$cross/apt-$arch/apt.conf apt-get install -qq -y --download-only --no-install-recommends "$@" </dev/null >/dev/null
    for file in "$cross/apt-$arch/archives"/*.deb; do
        if [[ ${file##*/} =~ ^($names)_ ]]; then dpkg-deb -x "$file" "$into"; fi
    done
    rm -rf "$cross/apt-$arch"
    touch "$into/.unpacked"
}

unpack amd64 "$cross/compiler" 'rustc-web|libstd-rust-web-[^_]*|libllvm.*|libxml2|libicu.*|libz3-4|libedit2|libffi8|libbsd0|libmd0' rustc-web
unpack arm64 "$cross/arm64" 'libstd-rust-web-dev|libc6|libgcc-s1|libsqlite3-0|sqlite3|libreadline8|libtinfo6|zlib1g' \
    libstd-rust-web-dev sqlite3
# The standard library for aarch64 beside the compiler's own.
cp -a --update "$cross/arm64/usr/lib/rustlib/$target" "$cross/compiler/usr/lib/rustlib/"

cat >"$cross/rustc" <<RUSTC
#!/bin/sh
LD_LIBRARY_PATH=$cross/compiler/usr/lib/x86_64-linux-gnu exec $cross/compiler/usr/bin/rustc --sysroot $cross/compiler/usr "\$@"
RUSTC
chmod +x "$cross/rustc"

export RUSTC=$cross/rustc CARGO_TARGET_DIR=$cross/target
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar
export BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="-isystem /usr/aarch64-linux-gnu/include"

echo "building with $("$RUSTC" --version)"
cargo build --quiet --release --locked --target $target -p sqlite_sync
library=$CARGO_TARGET_DIR/$target/release/libsqlite_sync.so
# Its tables are made, a write is captured and sealed, and the file is an ordinary one.
answer=$(qemu-aarch64-static -L "$cross/arm64" "$cross/arm64/usr/bin/sqlite3" :memory: ".load $library" \
    "SELECT sync_version() || ' ' || typeof(pull_request()) || ' ' || typeof(pending_ops())" "PRAGMA integrity_check")
echo "Debian's sqlite3 for aarch64 says: $answer"
[[ $answer == *" blob null"*ok ]]
mkdir -p target/aarch64
install -m 755 "$library" target/aarch64/libsqlite_sync.so
echo "target/aarch64/libsqlite_sync.so"
if [ "$what" != --tests ]; then
    echo "1 passed, 0 failed"
    exit
fi

# What a linker looks for; the library itself came with the packages.
libraries=$cross/arm64/usr/lib/aarch64-linux-gnu
ln -sf libsqlite3.so.0 "$libraries/libsqlite3.so"
export SQLITE3_LIB_DIR=$libraries SQLITE_SYNC_LIBRARY=$library
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L $cross/arm64"
# What a test does by chance is done a few times: it is the processor that differs.
export PROPTEST_CASES=${PROPTEST_CASES:-16}
# The programs that call the extension are built without optimising, as for any test; the extension is the one of the release above.
tests=(cargo test --locked --target "$target" -p sqlite_sync -p sync-shared --tests)
echo "building the tests"
"${tests[@]}" --quiet --no-run
echo "running them in qemu"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"${tests[@]}" --no-fail-fast 2>&1 | tee "$log" | grep -vE '^(test .* ok|running .*|)$' || true
# The first that passed is the one above: loading it into sqlite3. A file of tests that ended before its last line is a failure.
awk '
    / Running / { files++ }
    /^test result: / { ended++; passed += $4; failed += $6; ignored += $8 }
    /^skipped: / { skipped++ }
    END {
        failed += files - ended
        passed += 1 - skipped
        skipped += ignored
        printf "%d passed, %d failed", passed, failed
        if (skipped > 0) printf ", %d skipped", skipped
        print ""
        exit (failed > 0 || ended == 0)
    }
' "$log"
