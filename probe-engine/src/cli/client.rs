//! The way to the daemon: its socket, and what an answer that is an error means.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::{CliError, Globals, escape};
use crate::api::socket::{self, SOCKET_ENV};
use crate::api::v1;
use crate::api::v1::control_client::ControlClient;
use crate::limits;

/// This program's version; the daemon's should be the same.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the daemon has to say who it is: one that is stopped or stuck still has a socket that takes connections.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// A client of the control API.
pub type Client = ControlClient<Channel>;

/// A daemon that answers.
#[derive(Debug)]
pub struct Link {
    /// Its API.
    pub client: Client,
    /// What it said of itself.
    pub info: v1::GetInfoResponse,
}

impl Link {
    /// Connects and asks the daemon who it is; warns where it is of another version.
    pub async fn open(globals: &Globals) -> Result<Self, CliError> {
        let path = socket_path(globals)?;
        let link = Self::open_at(&path).await?;
        if let Some(warning) = version_warning(&link.info.version) {
            eprintln!("warning: {warning}");
        }
        Ok(link)
    }

    /// The same at a given path, without a warning.
    pub async fn open_at(path: &Path) -> Result<Self, CliError> {
        let asked = async {
            let mut client = connect(path).await?;
            let info = client.get_info(v1::GetInfoRequest {}).await.map_err(|status| error_of(&status))?;
            Ok(Self { client, info: info.into_inner() })
        };
        tokio::time::timeout(ANSWER_WAIT, asked).await.unwrap_or_else(|_| Err(CliError::Unknown(silent_text(path))))
    }
}

/// Connects to the daemon at this socket, without a word to it.
pub async fn connect(path: &Path) -> Result<Client, CliError> {
    Ok(ControlClient::new(channel(path).await?)
        .max_decoding_message_size(limits::API_RESPONSE_BYTES_MAX)
        .max_encoding_message_size(limits::API_REQUEST_BYTES_MAX))
}

/// A connection to it, for any of its services.
pub async fn channel(path: &Path) -> Result<Channel, CliError> {
    let to = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let to = to.clone();
        async move { tokio::net::UnixStream::connect(to).await.map(TokioIo::new) }
    });
    // The URI is never resolved: the connector knows the way.
    Endpoint::from_static("http://probe-engine")
        .connect_with_connector(connector)
        .await
        .map_err(|error| CliError::Unknown(unreachable_text(path, root_cause(&error))))
}

/// `--socket`, its environment name, or the default.
pub fn socket_path(globals: &Globals) -> Result<PathBuf, CliError> {
    match &globals.socket {
        Some(path) => Ok(path.clone()),
        None => socket::default_path().map_err(|error| CliError::usage(error.to_string())),
    }
}

/// Runs a subcommand's future.
pub fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot make a tokio runtime: {error} (out of descriptors?)")))?;
    runtime.block_on(future)
}

/// What an error of the API means to the caller.
#[must_use]
pub fn error_of(status: &Status) -> CliError {
    let message = escape::line(status.message()).into_owned();
    match status.code() {
        Code::NotFound | Code::FailedPrecondition | Code::AlreadyExists | Code::PermissionDenied => {
            CliError::Failed(message)
        }
        Code::InvalidArgument => CliError::Usage(message),
        Code::Unimplemented => CliError::Unknown(format!(
            "the daemon does not know this request ({message}); it is of another version: restart it"
        )),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => CliError::Unknown(message),
        code => CliError::Unknown(format!("the daemon answered {code:?}: {message}")),
    }
}

/// What to say of a daemon of another version.
#[must_use]
pub fn version_warning(daemon: &str) -> Option<String> {
    (daemon != VERSION).then(|| {
        format!(
            "the daemon is version {}, this program {VERSION}: some answers may be missing or misread; use the daemon's own program or restart it",
            escape::line(daemon)
        )
    })
}

fn unreachable_text(path: &Path, cause: &(dyn std::error::Error + 'static)) -> String {
    let path = path.display();
    let remedy = match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::PermissionDenied) => {
            "the socket belongs to another user; run this as the daemon's user (or root)".to_owned()
        }
        _ => format!(
            "no daemon listens there; start one with `probe-engine run --runtime process --manifests PATH`, or name its socket with --socket or {SOCKET_ENV}"
        ),
    };
    format!("cannot reach the daemon at {path}: {cause}; {remedy}")
}

fn silent_text(path: &Path) -> String {
    format!(
        "the daemon at {} takes connections and does not answer within {} s: it is stopped, stuck or starved; see its log, its /livez, and the state of its process (`ps`)",
        path.display(),
        ANSWER_WAIT.as_secs()
    )
}

fn root_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;

    #[tokio::test]
    async fn an_absent_daemon_is_unknown_with_path_and_remedy() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("api.sock");
        let error = Link::open_at(&path).await.expect_err("nobody there");
        assert_eq!(error.exit(), Exit::Unknown);
        let text = error.to_string();
        for part in [path.to_str().expect("utf-8"), "probe-engine run", SOCKET_ENV, "No such file"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    // Paused: the wait is over at once.
    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_does_not_answer_is_unknown_after_a_while() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("api.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        let error = Link::open_at(&path).await.expect_err("nobody answers");
        assert_eq!(error.exit(), Exit::Unknown);
        assert!(error.to_string().contains("does not answer"), "{error}");
    }

    #[test]
    fn errors_of_the_api_keep_their_meaning() {
        for (code, exit) in [
            (Code::NotFound, Exit::Failure),
            (Code::InvalidArgument, Exit::Usage),
            (Code::DeadlineExceeded, Exit::Unknown),
            (Code::Unavailable, Exit::Unknown),
            (Code::Internal, Exit::Unknown),
        ] {
            assert_eq!(error_of(&Status::new(code, "x")).exit(), exit, "{code:?}");
        }
    }

    #[test]
    fn another_version_is_warned_of() {
        assert_eq!(version_warning(VERSION), None);
        let warning = version_warning("9.9.9\x1b").expect("a warning");
        assert!(warning.contains("9.9.9\\x1b") && warning.contains(VERSION), "{warning}");
    }
}
