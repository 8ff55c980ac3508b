# Fuzzing guided by coverage: `./dev fuzz` reads this file.

# Both libraries and the fuzzer are built once more, so that each branch they take is counted (tests/fuzz/coverage.c).
fuzz() {
    setup
    local target folder=$cache/fuzz
    target=$(rustc --version --verbose | sed -n 's/^host: //p')
    mkdir -p "$folder"
    clang -O2 -fPIC -c tests/fuzz/coverage.c -o "$folder/coverage.o"
    say "building with counters"
    (
        export RUSTFLAGS="-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=3 \
            -C llvm-args=-sanitizer-coverage-trace-pc-guard -C link-arg=$folder/coverage.o"
        export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/fuzz
        cargo build --quiet --release --locked --target "$target" -p pg_sync ${pg_features[@]+"${pg_features[@]}"}
        cargo build --quiet --release --locked --target "$target" -p sqlite_sync
        cargo build --quiet --release --locked --target "$target" -p sync-tests --bin fuzz
    )
    local built=$CARGO_TARGET_DIR/fuzz/$target/release
    PG_SYNC_LIBRARIES=$built "$built/fuzz" --folder "$folder" "$@"
}
