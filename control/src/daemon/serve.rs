//! Control's own socket: questions of the command line.
//!
//! Questions about the dataplane are handed on by the connection's own task; what concerns the configuration goes to the
//! daemon's loop, which does one thing after the other.

use super::link::{self, read_frame, write_frame};
use crate::message::{Apply, Request, Response, Status};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sumun_dataplane::protocol::{self, FrameError, Kind};
use sumun_dataplane::server::claim::is_allowed;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// Connections served at a time.
const MOST_CONNECTIONS: usize = 32;
/// How long a peer may take for a frame, and between two of them.
const PATIENCE: Duration = Duration::from_secs(60);

/// What only the daemon's loop can answer.
pub enum Command {
    /// Run this configuration.
    Apply(Apply, oneshot::Sender<Response>),
    /// How are you? The dataplane's part is already there.
    Status(Result<protocol::Status, String>, oneshot::Sender<Status>),
}

/// Accepts for ever.
pub async fn serve(listener: UnixListener, dataplane: PathBuf, commands: mpsc::Sender<Command>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let dataplane = Arc::new(dataplane);
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors for the moment: do not spin.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (dataplane, commands) = (dataplane.clone(), commands.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, &dataplane, &commands).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
}

async fn connection(
    mut stream: UnixStream,
    dataplane: &Path,
    commands: &mpsc::Sender<Command>,
) -> Result<(), FrameError> {
    if !is_allowed(&stream) {
        return answer(&mut stream, &failed("only root and the user of sumun control may connect")).await;
    }
    loop {
        let response = match timeout(PATIENCE, read_frame(&mut stream)).await {
            Err(_) | Ok(Ok(None)) => return Ok(()),
            Ok(Err(error @ FrameError::Io(_))) => return Err(error),
            Ok(Err(error)) => {
                answer(&mut stream, &failed(&error.to_string())).await?;
                return Err(error);
            }
            Ok(Ok(Some((Kind::Publish, payload)))) => match protocol::decode(&payload) {
                Ok(apply) => through(commands, |reply| Command::Apply(apply, reply)).await,
                Err(error) => failed(&error.to_string()),
            },
            Ok(Ok(Some((Kind::Request, payload)))) => match protocol::decode(&payload) {
                Ok(Request::Dataplane(request)) if is_endless(&request) => {
                    return hand_on(stream, dataplane, &request).await;
                }
                Ok(request) => respond(request, dataplane, commands).await,
                Err(error) => failed(&error.to_string()),
            },
            Ok(Ok(Some((kind @ Kind::Response, _)))) => failed(&FrameError::Unexpected(kind).to_string()),
        };
        answer(&mut stream, &response).await?;
    }
}

/// Whether the dataplane answers a request again and again.
fn is_endless(request: &protocol::Request) -> bool {
    matches!(request, protocol::Request::Events { .. } | protocol::Request::Packets { .. })
}

/// Hands on what the dataplane answers to a request that has no last answer, until one of the two ends.
async fn hand_on(mut stream: UnixStream, dataplane: &Path, request: &protocol::Request) -> Result<(), FrameError> {
    let mut answers = match link::Answers::open(dataplane, request).await {
        Ok(answers) => answers,
        Err(reason) => return answer(&mut stream, &failed(&reason)).await,
    };
    loop {
        match answers.next().await {
            Ok(response) => answer(&mut stream, &Response::Dataplane(Box::new(response))).await?,
            Err(reason) => return answer(&mut stream, &failed(&reason)).await,
        }
    }
}

async fn respond(request: Request, dataplane: &Path, commands: &mpsc::Sender<Command>) -> Response {
    match request {
        Request::Dataplane(request) => match link::ask(dataplane, &request).await {
            Ok(response) => Response::Dataplane(Box::new(response)),
            Err(reason) => Response::Failed { reason },
        },
        Request::Status => {
            let status = match link::ask(dataplane, &protocol::Request::Status).await {
                Ok(protocol::Response::Status(status)) => Ok(*status),
                Ok(protocol::Response::Refused { reason }) => Err(reason),
                Ok(_) => Err("sumun-dataplane gave an answer to another question".to_string()),
                Err(reason) => Err(reason),
            };
            let (reply, status_of_all) = oneshot::channel();
            match commands.send(Command::Status(status, reply)).await {
                Ok(()) => match status_of_all.await {
                    Ok(status) => Response::Status(Box::new(status)),
                    Err(_) => stopping(),
                },
                Err(_) => stopping(),
            }
        }
    }
}

async fn through(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<Response>) -> Command,
) -> Response {
    let (reply, response) = oneshot::channel();
    if commands.send(command(reply)).await.is_err() {
        return stopping();
    }
    response.await.unwrap_or_else(|_| stopping())
}

async fn answer(stream: &mut UnixStream, response: &Response) -> Result<(), FrameError> {
    let payload = protocol::encode(response)?;
    match timeout(PATIENCE, write_frame(stream, Kind::Response, &payload)).await {
        Ok(written) => written,
        Err(_) => Err(FrameError::Cut),
    }
}

fn failed(reason: &str) -> Response {
    Response::Failed { reason: reason.to_string() }
}

fn stopping() -> Response {
    failed("sumun control is stopping")
}
