//! TLS, with an authority of our own.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use sync_tests::gateway::{ask, head, served, Gateway};
use sync_tests::{Cluster, Device};

struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn devices_sync_over_tls_and_strangers_to_the_authority_do_not() {
    let served = served(Cluster::shared());
    served.lists(1);
    let files = Files(std::env::temp_dir().join(format!("pg_sync_tls.{}.{:08x}", std::process::id(), fastrand::u32(..))));
    std::fs::create_dir(&files.0).expect("a folder");
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).expect("an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
    };
    let (ours, other) = (authority(), authority());
    let key = KeyPair::generate().expect("a key");
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).expect("names").signed_by(&key, &ours).expect("a certificate");
    let (cert_file, key_file) = (files.0.join("cert.pem"), files.0.join("key.pem"));
    std::fs::write(&cert_file, certificate.pem()).expect("a file");
    std::fs::write(&key_file, key.serialize_pem()).expect("a file");
    // With TLS any address will do.
    let (cert_file, key_file) = (cert_file.display().to_string(), key_file.display().to_string());
    let gateway = served.gateway(&["--listen", "0.0.0.0:0", "--tls-cert", &cert_file, "--tls-key", &key_file]);
    let address = ("127.0.0.1", gateway.address.port());
    let connect = |authority: &CertifiedIssuer<'_, KeyPair>| {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
        StreamOwned::new(connection, TcpStream::connect(address).expect("a connection"))
    };
    let (device, token) = (Device::new("user1"), served.token("user1"));
    let mut stream = connect(&ours);
    let mut more = true;
    while more {
        let reply = ask(&mut stream, "POST", "/sync/pull", &token, &device.pull_request()).expect("an answer");
        more = device.apply(&reply.content().expect("a delta")).expect("it is applied").more();
    }
    assert_eq!(device.value("SELECT count(*) FROM list"), "1");
    // Events, too, on the same connection.
    stream.write_all(head("GET", "/sync/events", &token, 0).as_bytes()).expect("a request");
    stream.sock.set_read_timeout(Some(crate::SOON)).expect("a limit");
    let mut told = |wanted: usize| {
        let mut text = String::new();
        while text.matches("event: changed").count() < wanted {
            let mut bytes = [0; 512];
            let n = stream.read(&mut bytes).expect("an event");
            assert!(n > 0, "it ended: {text}");
            text += &String::from_utf8_lossy(&bytes[..n]);
        }
    };
    told(1);
    served.db.run("UPDATE list SET title = 'x'");
    told(1);
    ask(&mut connect(&other), "GET", "/healthz", "", b"").expect_err("a stranger's authority proves nothing");
    let plain = ask(&mut TcpStream::connect(address).expect("a connection"), "GET", "/healthz", "", b"");
    plain.expect_err("nothing is said in the clear");
    // Keys that do not fit are refused when it starts.
    let why = Gateway::try_start(&served.address(), &["--tls-cert", &cert_file, "--tls-key", &cert_file])
        .map(|_| ())
        .expect_err("refused");
    assert!(why.contains("cert.pem"), "{why}");
}

#[test]
fn plain_http_for_other_machines_must_be_asked_for() {
    let served = served(Cluster::shared());
    let why = Gateway::try_start(&served.address(), &["--listen", "0.0.0.0:0"]).map(|_| ()).expect_err("refused");
    assert!(why.contains("--insecure-http") && why.contains("--tls-cert"), "{why}");
    drop(served.gateway(&["--listen", "0.0.0.0:0", "--insecure-http"]));
}
