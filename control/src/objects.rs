//! `sumun recent` and `sumun hashlimit`: what rules share by name, as the kernel shows it under `/proc/net`.

use crate::FamilyArgs;
use crate::ask::{Control, astray};
use anyhow::bail;
use clap::Subcommand;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use sumun_config::facts::Family;
use sumun_dataplane::protocol::{ObjectRequest, RecentRequest, Request, Response};

/// What can be done with lists of `recent`.
#[derive(Subcommand)]
pub enum Recent {
    /// The addresses of a list, the one seen longest ago first; without a name, what the rules have by name
    List {
        /// The list
        name: Option<String>,
    },
    /// An address is seen now
    Add {
        /// The list
        name: String,
        /// The address
        address: IpAddr,
    },
    /// Forget an address
    Remove {
        /// The list
        name: String,
        /// The address
        address: IpAddr,
    },
    /// Forget all addresses
    Flush {
        /// The list
        name: String,
    },
}

/// What can be done with tables of `hashlimit`.
#[derive(Subcommand)]
pub enum Hashlimit {
    /// The entries of a table: seconds left, what is counted, credit, most credit and cost; without a name, what the rules
    /// have by name
    List {
        /// The table
        name: Option<String>,
        #[command(flatten)]
        family: FamilyArgs,
    },
}

impl Recent {
    /// As it is asked of the dataplane.
    pub fn request(self) -> ObjectRequest {
        let (name, what) = match self {
            Recent::List { name: None } => return ObjectRequest::Names,
            Recent::List { name: Some(name) } => (name, RecentRequest::List),
            Recent::Add { name, address } => (name, RecentRequest::Add(address)),
            Recent::Remove { name, address } => (name, RecentRequest::Remove(address)),
            Recent::Flush { name } => (name, RecentRequest::Flush),
        };
        ObjectRequest::Recent { name, what }
    }
}

impl Hashlimit {
    /// As it is asked of the dataplane. Tables of IPv4 where no family is given.
    pub fn request(self) -> ObjectRequest {
        match self {
            Hashlimit::List { name: None, .. } => ObjectRequest::Names,
            Hashlimit::List { name: Some(name), family } => {
                ObjectRequest::Hashlimit { name, family: family.family().unwrap_or(Family::V4) }
            }
        }
    }
}

/// Asks, and prints the answer.
pub fn ask(request: ObjectRequest, run_dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    match Control::connect(run_dir)?.dataplane(Request::Object(request))? {
        Response::Lines(lines) => Ok(lines.iter().try_for_each(|line| writeln!(out, "{line}"))?),
        other => bail!(astray(&other)),
    }
}
