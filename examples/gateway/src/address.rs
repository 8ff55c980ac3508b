//! Where Postgres is, and how to get there: with TLS wherever somebody in between could read.

use crate::settings::Settings;
use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A server, or a pooler in front of one.
#[derive(Clone)]
pub struct Address {
    config: Config,
    /// None: a socket of this machine's, where there is no name to check a certificate against, and no need to.
    tls: Option<MakeRustlsConnect>,
}

impl Address {
    /// Where calls go, and where the one connection goes that waits.
    pub fn both(settings: &Settings) -> Result<(Address, Address), String> {
        let tls = MakeRustlsConnect::new(tls(settings.database_ca.as_deref())?);
        let read = |flag, url: &str| Address::read(flag, url, &tls, settings);
        let calls = read("--database", &settings.database)?;
        let watch = match &settings.watch_database {
            Some(url) => read("--watch-database", url)?,
            None => calls.clone(),
        };
        Ok((calls, watch))
    }

    fn read(flag: &str, url: &str, tls: &MakeRustlsConnect, settings: &Settings) -> Result<Address, String> {
        let mut config = Config::from_str(url).map_err(|e| format!("the address of {flag} cannot be read: {e}"))?;
        let places = places(&config);
        let far = places.iter().find(|place| !place.is_local());
        if let (Some(far), false, false) = (far, settings.insecure_database, config.get_ssl_mode() == SslMode::Require) {
            return Err(format!(
                "{flag}: {} is on another machine, and without TLS tokens and rows would travel readable: put sslmode=require into \
                 the address (--database-ca names an authority of your own), or give --insecure-database where nobody is in between",
                far.name()
            ));
        }
        if config.get_application_name().is_none() {
            config.application_name("sync-gateway");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(5));
        }
        // A server that is gone without a word is noticed.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(settings.timeout());
        }
        let sockets = places.iter().all(|place| matches!(place, Place::Socket));
        Ok(Address { config, tls: (!sockets).then(|| tls.clone()) })
    }

    /// What makes the pool's connections.
    pub fn manager(&self) -> Manager {
        let (config, recycle) = (self.config.clone(), ManagerConfig { recycling_method: RecyclingMethod::Fast });
        match &self.tls {
            Some(tls) => Manager::from_config(config, tls.clone(), recycle),
            None => Manager::from_config(config, NoTls, recycle),
        }
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Result<Client, Error> {
        // What goes wrong is told to whoever uses the client.
        let Some(tls) = &self.tls else {
            let (client, connection) = self.config.connect(NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            return Ok(client);
        };
        let (client, connection) = self.config.connect(tls.clone()).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    /// Asks Postgres to stop what a connection does just now. Nobody says whether it did.
    pub async fn cancel(&self, client: &Client) -> std::io::Result<()> {
        crate::cancel::cancel(&self.config, self.tls.as_ref(), client).await
    }
}

/// Where a connection really goes: `hostaddr` counts before `host`.
enum Place {
    Socket,
    Name(String),
    Number(std::net::IpAddr),
}

fn places(config: &Config) -> Vec<Place> {
    if !config.get_hostaddrs().is_empty() {
        return config.get_hostaddrs().iter().copied().map(Place::Number).collect();
    }
    let place = |host: &Host| match host {
        Host::Unix(_) => Place::Socket,
        Host::Tcp(name) => name.parse().map_or_else(|_| Place::Name(name.clone()), Place::Number),
    };
    config.get_hosts().iter().map(place).collect()
}

impl Place {
    fn is_local(&self) -> bool {
        match self {
            Place::Socket => true,
            Place::Name(name) => name == "localhost",
            Place::Number(number) => number.is_loopback(),
        }
    }

    fn name(&self) -> String {
        match self {
            Place::Socket => "a socket".into(),
            Place::Name(name) => name.clone(),
            Place::Number(number) => number.to_string(),
        }
    }
}

fn tls(authorities: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(file) = authorities {
        roots = RootCertStore::empty();
        let refuse = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| refuse(&e))? {
            roots.add(certificate.map_err(|e| refuse(&e))?).map_err(|e| refuse(&e))?;
        }
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
