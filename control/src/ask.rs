//! The command line's end of `control.sock`.

use crate::connect::CONTROL;
use crate::message::{Apply, Request, Response};
use anyhow::{Context, bail};
use serde::Serialize;
use std::os::unix::net::UnixStream;
use std::path::Path;
use sumun_dataplane::protocol::{self, FlowRow, Kind};

/// A connection to control.
pub struct Control(UnixStream);

impl Control {
    /// Connects; an error says what to do.
    pub fn connect(run_dir: &Path) -> anyhow::Result<Control> {
        let socket = run_dir.join(CONTROL.socket);
        match UnixStream::connect(&socket) {
            Ok(stream) => Ok(Control(stream)),
            Err(error) => bail!(CONTROL.explain(&socket, &error)),
        }
    }

    /// Asks control itself.
    pub fn ask(&mut self, request: &Request) -> anyhow::Result<Response> {
        self.exchange(Kind::Request, request)
    }

    /// Sends a configuration to be run.
    pub fn apply(&mut self, apply: &Apply) -> anyhow::Result<Response> {
        self.exchange(Kind::Publish, apply)
    }

    /// Asks the dataplane through control.
    pub fn dataplane(&mut self, request: protocol::Request) -> anyhow::Result<protocol::Response> {
        match self.ask(&Request::Dataplane(request))? {
            Response::Dataplane(response) => match *response {
                protocol::Response::Refused { reason } => bail!("sumun-dataplane: {reason}"),
                response => Ok(response),
            },
            Response::Failed { reason } => bail!(reason),
            other => bail!(astray(&other)),
        }
    }

    /// All flows that the filter takes, page by page as they come.
    pub fn flows(
        &mut self,
        filter: protocol::FlowFilter,
        mut each: impl FnMut(Vec<FlowRow>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut from = Some(0);
        while let Some(at) = from {
            match self.dataplane(protocol::Request::Conntrack { filter, from: at })? {
                protocol::Response::Flows { flows, next } => {
                    each(flows)?;
                    from = next;
                }
                other => bail!(astray(&other)),
            }
        }
        Ok(())
    }

    fn exchange(&mut self, kind: Kind, message: &impl Serialize) -> anyhow::Result<Response> {
        protocol::write_frame(&mut self.0, kind, &protocol::encode(message)?).context("sumun control")?;
        match protocol::read_message(&mut self.0, Kind::Response).context("sumun control")? {
            Some(response) => Ok(response),
            None => bail!("sumun control has closed the connection; see its log"),
        }
    }
}

/// An answer to another question: the two are not of one release.
pub fn astray(response: &impl std::fmt::Debug) -> String {
    let mut what = format!("{response:?}");
    what.truncate(what.floor_char_boundary(40));
    format!("an answer to another question came: {what}; are all processes of one release?")
}
