# Long runs: `./dev soak` reads this file.

soak() {
    if [ "${1:-}" = --hours ]; then
        soak_hours "$@"
        return
    fi
    build
    cargo build --quiet --release --locked -p sync-tests --bin soak
    "$CARGO_TARGET_DIR/release/soak" "$@"
}

# One turn of a soak: what, how much of it, the command. Its seed is in SEED. A failure is recorded, and its output kept.
soak_turn() {
    local what=$1 amount=$2 log=target/soak-$1-$SEED.log begin=$SECONDS outcome=failed
    shift 2
    "$@" >"$log" 2>&1 && outcome=passed && rm -f "$log"
    printf '%s\t%s\t%s\t%s\t%d\t%s\n' "$what" "$SEED" "$amount" "$outcome" $((SECONDS - begin)) \
        "$(git rev-parse --short HEAD)" | tee -a "$soak_results"
}

soak_hours() {
    [[ "${2:-}" =~ ^[0-9]+$ ]] || die "usage: ./dev soak --hours N"
    local end=$((SECONDS + $2 * 3600)) soak_results=target/soak-results.tsv SEED
    build
    cargo build --quiet --release --locked -p sync-tests --bin sim
    touch "$soak_results"
    SEED=$(awk '$2 > max { max = $2 } END { print max + 1 }' "$soak_results")
    for (( ; SECONDS < end; SEED++)); do
        export SEED KILLS=100 RESTORE_ROUNDS=1000
        soak_turn kills $KILLS cargo test --quiet --locked -p sync-tests --test restore killed
        soak_turn wander $RESTORE_ROUNDS cargo test --quiet --locked -p sync-tests --test restore wander
        soak_turn backfill 5 env BACKFILL_KILLS=5 cargo test --quiet --locked -p sync-tests --test restore backfill
        # Goes on where the last one ended (target/faults-memory.tsv).
        soak_turn allocations 300 env FAULTS=all FAULTS_SECONDS=300 cargo test --quiet --locked -p sync-tests --test faults faults_any_allocation
        # From a million on, so that these seeds are not those of other long runs.
        soak_turn sim 300 "$CARGO_TARGET_DIR/release/sim" --seeds 300 --first $((1000000 + SEED * 300))
    done
    ! grep -q failed "$soak_results"
}
