//! Control's connections to the dataplane: one that stays, to publish and to notice at once when the dataplane is gone,
//! and short ones for questions.

use crate::connect::DATAPLANE;
use std::io;
use std::path::Path;
use std::time::Duration;
use sumun_dataplane::protocol::{self, FrameError, HEADER_LEN, Header, Hello, Kind, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long the dataplane may take to build the largest policy.
const PUBLISH: Duration = Duration::from_secs(120);
/// How long it may take to answer a question.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to a dataplane that said who it is.
pub struct Link {
    stream: UnixStream,
    /// Kept true as policies are accepted.
    pub hello: Hello,
}

impl Link {
    /// Connects and asks who is there; or says why not, for people.
    pub async fn open(socket: &Path) -> Result<Link, String> {
        let mut stream = UnixStream::connect(socket).await.map_err(|error| DATAPLANE.explain(socket, &error))?;
        match exchange(&mut stream, Kind::Request, &encode(&Request::Hello)?, ANSWER).await? {
            Response::Hello(hello) => Ok(Link { stream, hello: *hello }),
            Response::Refused { reason } => Err(format!("sumun-dataplane: {reason}")),
            _ => Err("sumun-dataplane gave an answer to another question".to_string()),
        }
    }

    /// Publishes an encoded policy. An error means that the connection cannot be used any more.
    pub async fn publish(&mut self, payload: &[u8]) -> Result<Response, String> {
        exchange(&mut self.stream, Kind::Publish, payload, PUBLISH).await
    }

    /// Returns when the dataplane has closed the connection. It sends nothing unasked, so whatever comes is an end.
    pub async fn closed(&self) {
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            match self.stream.try_read(&mut [0; 1]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}

/// Asks one question on a connection of its own.
pub async fn ask(socket: &Path, request: &Request) -> Result<Response, String> {
    let mut stream = UnixStream::connect(socket).await.map_err(|error| DATAPLANE.explain(socket, &error))?;
    exchange(&mut stream, Kind::Request, &encode(request)?, ANSWER).await
}

/// The answers to a request that has no last one.
pub struct Answers(UnixStream);

impl Answers {
    /// Asks, on a connection of its own.
    pub async fn open(socket: &Path, request: &Request) -> Result<Answers, String> {
        let mut stream = UnixStream::connect(socket).await.map_err(|error| DATAPLANE.explain(socket, &error))?;
        let payload = encode(request)?;
        match timeout(ANSWER, write_frame(&mut stream, Kind::Request, &payload)).await {
            Ok(Ok(())) => Ok(Answers(stream)),
            Ok(Err(error)) => Err(format!("sumun-dataplane: {error}")),
            Err(_) => Err(late(ANSWER)),
        }
    }

    /// The next answer.
    pub async fn next(&mut self) -> Result<Response, String> {
        match timeout(ANSWER, read_frame(&mut self.0)).await {
            Ok(Ok(Some((Kind::Response, payload)))) => protocol::decode(&payload).map_err(|error| error.to_string()),
            Ok(Ok(Some((kind, _)))) => Err(FrameError::Unexpected(kind).to_string()),
            Ok(Ok(None)) => Err("sumun-dataplane has ended".to_string()),
            Ok(Err(error)) => Err(format!("sumun-dataplane: {error}")),
            Err(_) => Err(late(ANSWER)),
        }
    }
}

fn late(most: Duration) -> String {
    format!("sumun-dataplane did not answer within {} seconds", most.as_secs())
}

async fn exchange(stream: &mut UnixStream, kind: Kind, payload: &[u8], most: Duration) -> Result<Response, String> {
    let answer = async {
        write_frame(stream, kind, payload).await?;
        match read_frame(stream).await? {
            Some((Kind::Response, payload)) => protocol::decode(&payload),
            Some((kind, _)) => Err(FrameError::Unexpected(kind)),
            None => Err(FrameError::Cut),
        }
    };
    match timeout(most, answer).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(format!("sumun-dataplane: {error}")),
        Err(_) => Err(late(most)),
    }
}

fn encode(request: &Request) -> Result<Vec<u8>, String> {
    protocol::encode(request).map_err(|error| error.to_string())
}

/// Writes a frame.
pub async fn write_frame(to: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
    to.write_all(&Header::of(kind, payload.len())?.bytes()).await?;
    to.write_all(payload).await?;
    Ok(to.flush().await?)
}

/// Reads a frame, with memory only for what really comes; none where the other side has closed.
pub async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<(Kind, Vec<u8>)>, FrameError> {
    let mut bytes = [0; HEADER_LEN];
    let mut have = 0;
    while have < HEADER_LEN {
        match from.read(&mut bytes[have..]).await? {
            0 if have == 0 => return Ok(None),
            0 => return Err(FrameError::Cut),
            n => have += n,
        }
    }
    let header = Header::parse(bytes)?;
    let mut payload = Vec::new();
    from.take(header.len as u64).read_to_end(&mut payload).await?;
    if payload.len() == header.len as usize { Ok(Some((header.kind, payload))) } else { Err(FrameError::Cut) }
}
