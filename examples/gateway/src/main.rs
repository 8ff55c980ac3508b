//! `sync-gateway`: see README.md beside this folder, or `--help`.

use clap::Parser;
use sync_gateway::serve::Bound;
use sync_gateway::settings::Settings;
use tokio::signal::unix::{signal, SignalKind};

fn main() {
    let settings = Settings::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|e| refuse(&format!("no threads can be started: {e}")));
    runtime.block_on(async {
        let told = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
        let (mut term, mut interrupt) = told.unwrap_or_else(|e| refuse(&format!("signals cannot be waited for: {e}")));
        let bound = Bound::open(settings).await.unwrap_or_else(|e| refuse(&e));
        let address = bound.address().unwrap_or_else(|e| refuse(&e));
        println!("sync-gateway: listening on {address}");
        let end = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        bound.serve(end).await;
    });
}

fn refuse(why: &str) -> ! {
    eprintln!("sync-gateway: {why}");
    std::process::exit(2)
}
