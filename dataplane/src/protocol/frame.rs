//! Frames: how messages are cut out of a stream of bytes, and told apart.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// The version of frames and messages. Both ends must have the same: they are of one release.
pub const VERSION: u16 = 1;

/// Bytes of a [`Header`].
pub const HEADER_LEN: usize = 12;

const MAGIC: [u8; 4] = *b"SMUN";

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Kind {
    /// A small message that asks for something.
    Request = 1,
    /// A policy to run, or, from the CLI to control, a configuration to apply.
    Publish = 2,
    /// An answer.
    Response = 3,
}

impl Kind {
    /// Greatest length of the payload in bytes.
    pub const fn most(self) -> u32 {
        match self {
            Kind::Request => 64 << 10,
            Kind::Publish | Kind::Response => 1 << 30,
        }
    }
}

/// What comes before the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Its length in bytes, at most [`Kind::most`].
    pub len: u32,
}

/// Why a frame cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The magic is missing.
    #[error("the other side does not speak sumun's protocol")]
    Foreign,
    /// Another version.
    #[error(
        "the other side speaks version {0} of the protocol and this one version {VERSION}: restart the older of the two"
    )]
    Version(u16),
    /// No kind of frame has this number.
    #[error("unknown kind of frame {0}")]
    Kind(u16),
    /// A kind that has no place here.
    #[error("a frame of kind {0:?} is not expected here")]
    Unexpected(Kind),
    /// Longer than its kind may be.
    #[error("a frame of {len} bytes is longer than the {most} bytes that are allowed")]
    TooLong {
        /// What the header says.
        len: u64,
        /// What would be accepted.
        most: u32,
    },
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    Cut,
    /// The payload is not what its kind says.
    #[error("malformed message: {0}")]
    Malformed(#[from] postcard::Error),
    /// Bytes follow the message in its frame.
    #[error("malformed message: {0} bytes too many")]
    Trailing(usize),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Header {
    /// The header of a payload of `len` bytes.
    pub fn of(kind: Kind, len: usize) -> Result<Header, FrameError> {
        match u32::try_from(len) {
            Ok(short) if short <= kind.most() => Ok(Header { kind, len: short }),
            _ => Err(FrameError::TooLong { len: len as u64, most: kind.most() }),
        }
    }

    /// As it goes over the socket.
    pub fn bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Checks everything that a header says.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let [m0, m1, m2, m3, v0, v1, k0, k1, l0, l1, l2, l3] = bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(FrameError::Foreign);
        }
        match u16::from_le_bytes([v0, v1]) {
            VERSION => {}
            version => return Err(FrameError::Version(version)),
        }
        let kind = match u16::from_le_bytes([k0, k1]) {
            1 => Kind::Request,
            2 => Kind::Publish,
            3 => Kind::Response,
            other => return Err(FrameError::Kind(other)),
        };
        Header::of(kind, u32::from_le_bytes([l0, l1, l2, l3]) as usize)
    }
}

/// A message as payload.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    Ok(postcard::to_stdvec(message)?)
}

/// A payload as message; all of it.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    let (message, rest) = postcard::take_from_bytes(payload)?;
    if rest.is_empty() { Ok(message) } else { Err(FrameError::Trailing(rest.len())) }
}

/// Writes a frame.
pub fn write_frame(to: &mut impl Write, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
    to.write_all(&Header::of(kind, payload.len())?.bytes())?;
    to.write_all(payload)?;
    Ok(to.flush()?)
}

/// Reads the next header; none where the other side has closed between two frames.
pub fn read_header(from: &mut impl Read) -> Result<Option<Header>, FrameError> {
    let mut bytes = [0; HEADER_LEN];
    let mut have = 0;
    while have < HEADER_LEN {
        match from.read(&mut bytes[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Cut),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Header::parse(bytes).map(Some)
}

/// Reads the payload that belongs to a header. Memory grows with what comes, not with what the header promises.
pub fn read_payload(from: &mut impl Read, header: Header) -> Result<Vec<u8>, FrameError> {
    let mut payload = Vec::new();
    from.take(header.len as u64).read_to_end(&mut payload)?;
    if payload.len() == header.len as usize { Ok(payload) } else { Err(FrameError::Cut) }
}

/// Reads one frame and demands that it is of `kind`; none where the other side has closed.
pub fn read_message<T: DeserializeOwned>(from: &mut impl Read, kind: Kind) -> Result<Option<T>, FrameError> {
    let Some(header) = read_header(from)? else { return Ok(None) };
    if header.kind != kind {
        return Err(FrameError::Unexpected(header.kind));
    }
    decode(&read_payload(from, header)?).map(Some)
}

/// Tells one published policy from another: 128-bit FNV-1a over its payload. Against mistakes, not against enemies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of a [`Kind::Publish`] payload.
    pub fn of(payload: &[u8]) -> Digest {
        const OFFSET: u128 = 0x6c62272e07bb014262b821756295c58d;
        const PRIME: u128 = 0x0000000001000000000000000000013b;
        Digest(payload.iter().fold(OFFSET, |hash, &byte| (hash ^ byte as u128).wrapping_mul(PRIME)))
    }
}
