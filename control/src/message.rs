//! What the command line and the control process say to each other on `control.sock`, in the frames of
//! [`sumun_dataplane::protocol`].
//!
//! A [`Request`] is a small frame; a configuration to apply is a frame of kind `Publish` with an [`Apply`].

use serde::{Deserialize, Serialize};
use sumun_config::facts::Family;
use sumun_dataplane::protocol;

/// What the command line asks.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// How are control and the dataplane?
    Status,
    /// A question to the dataplane, handed on.
    Dataplane(Box<protocol::Request>),
}

/// What is to run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Apply {
    /// A configuration.
    Configuration(Text),
    /// The configuration that runs, with the rules of these families from the text of iptables.
    Iptables(Vec<(Family, Text)>),
}

/// A file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Text {
    /// Its path, for messages.
    pub name: String,
    /// The whole of it.
    pub bytes: Vec<u8>,
}

/// What control answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// The dataplane's answer to [`Request::Dataplane`].
    Dataplane(Box<protocol::Response>),
    /// To [`Apply`]: it runs.
    Applied {
        /// As which generation.
        generation: u64,
        /// The file that control watches and that will take over again when it changes, where it is another.
        until: Option<String>,
        /// Interfaces that its rules name and no port has.
        foreign: Vec<String>,
    },
    /// To [`Apply`]: the configuration has mistakes. Nothing was changed.
    Mistakes {
        /// For people.
        text: String,
    },
    /// It could not be done. Nothing was changed.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

/// How control is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// The file that it watches.
    pub config: String,
    /// What it made the dataplane run, by name; none where it has not yet.
    pub running: Option<String>,
    /// Why the newest configuration is not in force.
    pub problem: Option<String>,
    /// How the dataplane is, or why it cannot be asked.
    pub dataplane: Result<protocol::Status, String>,
}
