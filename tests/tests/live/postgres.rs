//! Between the gateway and Postgres nobody reads along.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::{Path, PathBuf};
use sync_tests::compare::server_value;
use sync_tests::gateway::{served, Gateway, Served};
use sync_tests::{skipped, Cluster, Device};

struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority of our own.
fn authority(folder: &Path, name: &str) -> (CertifiedIssuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
    let file = folder.join(name);
    std::fs::write(&file, authority.pem()).expect("a file");
    (authority, file.display().to_string())
}

#[test]
fn a_database_on_another_machine_must_be_spoken_to_with_tls() {
    // None of these is ever spoken to: a gateway without clients connects to nothing.
    let start = |database: &str, more: &[&str]| Gateway::try_start(database, more).map(|_| ());
    for database in [
        "host=db.example user=u dbname=d",
        "postgres://u@db.example/d?sslmode=prefer",
        "postgres://u@db.example/d?sslmode=disable",
        "host=192.0.2.1 user=u",
        "host=localhost hostaddr=192.0.2.1 user=u",
        "host=/var/run/postgresql hostaddr=192.0.2.1 user=u",
        "host=localhost,db.example user=u",
    ] {
        let why = start(database, &[]).expect_err(database);
        assert!(why.contains("sslmode=require") && why.contains("--insecure-database"), "{why}");
        let why = start("host=localhost", &["--watch-database", database]).expect_err(database);
        assert!(why.contains("--watch-database: "), "{why}");
        start(database, &["--insecure-database"]).expect("if it must be");
    }
    for database in [
        "postgres://u@db.example/d?sslmode=require",
        "host=/var/run/postgresql user=u",
        "host=localhost user=u",
        "host=127.0.0.1 user=u",
        "host=::1 user=u",
        "host=db.example hostaddr=127.0.0.1 user=u",
    ] {
        start(database, &[]).unwrap_or_else(|why| panic!("{database}: {why}"));
    }
}

/// Gives the server a certificate for the name `localhost`.
fn with_certificate(served: &Served<'_>, authority: &CertifiedIssuer<'_, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let names = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    let certificate = names.signed_by(&key, authority).expect("a certificate");
    // The server writes its own files, which nobody else may read.
    for (file, text) in [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())] {
        let lines = text.trim().lines().collect::<Vec<_>>().join("\n");
        served.db.run(&format!("COPY (SELECT unnest(string_to_array('{lines}', E'\\n'))) TO PROGRAM 'umask 077; cat > {file}'"));
    }
    for setting in ["ssl_cert_file = 'tls.crt'", "ssl_key_file = 'tls.key'", "ssl = on"] {
        served.db.run(&format!("ALTER SYSTEM SET {setting}"));
    }
    served.db.run("SELECT pg_reload_conf()");
    served.db.run("SELECT pg_sleep(0.3)");
}

#[test]
fn postgres_is_spoken_to_over_tls_and_a_strangers_certificate_is_refused() {
    // An address of this machine that no other server of the tests has, and hardly anybody else.
    let address = format!("127.{}.{}.{}", fastrand::u8(64..), fastrand::u8(..), fastrand::u8(1..255));
    let cluster = Cluster::start(&format!("listen_addresses = '{address}'"));
    let served = served(&cluster);
    served.lists(1);
    let files = Files(std::env::temp_dir().join(format!("pg_sync_tls.{}.{:08x}", std::process::id(), fastrand::u32(..))));
    std::fs::create_dir(&files.0).expect("a folder");
    let (ours, ours_file) = authority(&files.0, "ours.pem");
    let (_, other_file) = authority(&files.0, "other.pem");
    let database = format!(
        "host=localhost hostaddr={address} port={} user={} dbname={} sslmode=require",
        cluster.port(),
        served.relay,
        served.db.name()
    );
    let gateway = Gateway::start(&database, &["--database-ca", &ours_file]);
    let (device, token) = (Device::new("user1"), served.token("user1"));
    let refused = gateway.sync(&device, &token).expect_err("a server without TLS is not told the token");
    assert!(refused.starts_with("503"), "{refused}");
    if server_value(&mut served.db.connect(), "SELECT current_setting('ssl_library')").is_empty() {
        return skipped("this server is built without TLS");
    }
    with_certificate(&served, &ours);
    gateway.sync(&device, &token).expect("a sync");
    assert_eq!(device.value("SELECT count(*) FROM list"), "1");
    let sql =
        format!("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = '{}'", served.relay);
    assert_eq!(server_value(&mut served.db.connect(), &sql), "t");
    let stranger = Gateway::start(&database, &["--database-ca", &other_file]);
    let refused = stranger.sync(&device, &token).expect_err("the token is not told");
    assert!(refused.starts_with("503"), "{refused}");
}
