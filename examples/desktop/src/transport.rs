//! The requests: bytes go to the gateway and come back.

use std::io::{BufRead, BufReader};
use std::time::Duration;
use ureq::config::Config;
use ureq::Agent;

/// For a whole request that is no stream of events.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A stream of events is opened anew that often: so a network that died in silence is noticed, and nothing is missed, since each stream
/// begins with an event.
const STREAM: Duration = Duration::from_secs(60);
/// More than the gateway lets through.
const LARGEST: u64 = 1 << 30;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// There is no network, or no server at its end; later there may be.
    Unreachable(String),
    /// The server answered, and not with what was asked for: HTTP's status, and what it said.
    Refused(u16, String),
}

/// Where the gateway is, and who asks.
pub struct Transport {
    url: String,
    token: String,
    requests: Agent,
    streams: Agent,
}

impl Transport {
    /// `url` is where the gateway takes requests: `https://api.example.com/sync`.
    pub fn new(url: &str, token: &str) -> Transport {
        // What the server says with an error is wanted too.
        let settings = || Config::builder().http_status_as_error(false);
        let requests = settings().timeout_global(Some(TIMEOUT)).build();
        let streams =
            settings().timeout_connect(Some(TIMEOUT)).timeout_recv_response(Some(TIMEOUT)).timeout_recv_body(Some(STREAM));
        Transport {
            url: url.trim_end_matches('/').to_owned(),
            token: format!("Bearer {token}"),
            requests: requests.into(),
            streams: streams.build().into(),
        }
    }

    /// What the server answers to a message.
    pub fn exchange(&self, path: &str, message: &[u8]) -> Result<Vec<u8>, Failed> {
        let request = self.requests.post(format!("{}/{path}", self.url)).header("authorization", &self.token);
        let answer = request.content_type("application/octet-stream").send(message).map_err(unreachable)?;
        let mut body = taken(answer)?;
        body.with_config().limit(LARGEST).read_to_vec().map_err(unreachable)
    }

    /// Calls `heard` when the server listens, and whenever it says that something has changed, until the stream ends. `heard` answers
    /// whether to go on.
    pub fn events(&self, mut heard: impl FnMut() -> bool) -> Result<(), Failed> {
        let request = self.streams.get(format!("{}/events", self.url)).header("authorization", &self.token);
        let body = taken(request.call().map_err(unreachable)?)?;
        for line in BufReader::new(body.into_reader()).lines() {
            match line {
                Ok(line) if line.starts_with("data:") && !heard() => return Ok(()),
                Ok(_) => {}
                // Its time is over.
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Ok(()),
                Err(error) => return Err(Failed::Unreachable(error.to_string())),
            }
        }
        Ok(())
    }
}

fn unreachable(error: ureq::Error) -> Failed {
    Failed::Unreachable(error.to_string())
}

fn taken(answer: ureq::http::Response<ureq::Body>) -> Result<ureq::Body, Failed> {
    let (status, mut body) = (answer.status().as_u16(), answer.into_body());
    if status == 200 {
        return Ok(body);
    }
    let said = body.with_config().limit(2000).read_to_string().unwrap_or_default();
    Err(Failed::Refused(status, said.trim().to_owned()))
}
