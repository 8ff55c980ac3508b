//! The names of functions are for profilers and debuggers, and a fifth of the library: a release leaves them out of the library, though
//! not out of tests and examples. `SQLITE_SYNC_SYMBOLS=1` keeps them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SQLITE_SYNC_SYMBOLS");
    let variable = |name| std::env::var(name).unwrap_or_default();
    let strips = ["linux", "android"].contains(&variable("CARGO_CFG_TARGET_OS").as_str());
    if variable("PROFILE") == "release" && strips && variable("SQLITE_SYNC_SYMBOLS").is_empty() {
        println!("cargo::rustc-link-arg-cdylib=-Wl,--strip-all");
    }
}
