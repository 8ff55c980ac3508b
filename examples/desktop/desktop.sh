# The example for the desktop in its windows: `./dev desktop` reads this file.

# Tauri's crates are built apart, once: four hundred of them, 1 GB.
desktop() {
    build
    build_gateway
    install_missing libwebkit2gtk-4.1-dev
    say "building the window"
    CARGO_TARGET_DIR=$CARGO_TARGET_DIR/window cargo build --quiet --release --locked --manifest-path examples/desktop/window/Cargo.toml
    cargo build --quiet --release --locked -p sync-tests --bin desktop
    local show=("$CARGO_TARGET_DIR/release/desktop" "$CARGO_TARGET_DIR/window/release/sync-desktop-window" "$@")
    if [ "${1:-}" = --screenshot ]; then
        install_missing xvfb xauth imagemagick fonts-inter
        # Where there is no graphics card the page is painted without one.
        WEBKIT_DISABLE_DMABUF_RENDERER=1 WEBKIT_DISABLE_COMPOSITING_MODE=1 xvfb-run -a -s '-screen 0 1560x500x24 -wr' "${show[@]}"
    else
        "${show[@]}"
    fi
}
