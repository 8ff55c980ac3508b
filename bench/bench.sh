# Speed, measured and counted: `./dev bench` reads this file.

bench() {
    if [ "${1:-}" = shared ]; then
        cargo bench --quiet --locked -p sync-shared --bench wire -- "${@:2}"
        return
    fi
    build
    case ${1:-} in
        instructions | ratios)
            cargo build --quiet --release --locked -p sqlite_sync --example profile
            if [ "$1" = instructions ]; then
                install_missing valgrind
                cargo build --quiet --release --locked -p sync-bench
            fi
            "bench/$1" "${@:2}"
            return
            ;;
    esac
    build_gateway
    cargo build --quiet --release --locked -p sync-bench
    "$CARGO_TARGET_DIR/release/sync-bench" "$@"
}
