//! The command line's end of `control.sock`.

use crate::connect::CONTROL;
use crate::message::{Apply, Request, Response};
use anyhow::{Context, bail};
use serde::Serialize;
use std::os::unix::net::UnixStream;
use std::path::Path;
use sumun_dataplane::protocol::{self, EventRow, FlowFilter, FlowRow, Kind, PacketRow};

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
        match self.ask(&Request::Dataplane(Box::new(request)))? {
            Response::Dataplane(response) => match *response {
                protocol::Response::Refused { reason } => bail!("sumun-dataplane: {reason}"),
                response => Ok(response),
            },
            Response::Failed { reason } => bail!(reason),
            other => bail!(astray(&other)),
        }
    }

    /// All flows that the filter takes, as they come, page by page; how many. `ask` makes the request for the page that
    /// begins at a place.
    pub fn flows(
        &mut self,
        filter: &FlowFilter,
        ask: impl Fn(FlowFilter, u32) -> protocol::Request,
        mut each: impl FnMut(FlowRow) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let (mut count, mut from) = (0, Some(0));
        while let Some(at) = from {
            match self.dataplane(ask(filter.clone(), at))? {
                protocol::Response::Flows { flows, next } => {
                    count += flows.len() as u64;
                    flows.into_iter().try_for_each(&mut each)?;
                    from = next;
                }
                other => bail!(astray(&other)),
            }
        }
        Ok(count)
    }

    /// What happens to flows, batch by batch with the number of events that were lost, until the dataplane ends or `each`
    /// fails.
    pub fn events(
        &mut self,
        filter: FlowFilter,
        kinds: u8,
        mut each: impl FnMut(Vec<EventRow>, u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.listen(protocol::Request::Events { filter, kinds }, |response| match response {
            protocol::Response::Events { events, lost } => each(events, lost),
            other => bail!(astray(&other)),
        })
    }

    /// The same with the packets of NFLOG, of one group or of all.
    pub fn packets(
        &mut self,
        group: Option<u16>,
        mut each: impl FnMut(Vec<PacketRow>, u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.listen(protocol::Request::Packets { group }, |response| match response {
            protocol::Response::Packets { packets, lost } => each(packets, lost),
            other => bail!(astray(&other)),
        })
    }

    /// All answers to a request that has no last one.
    fn listen(
        &mut self,
        request: protocol::Request,
        mut each: impl FnMut(protocol::Response) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut response = self.ask(&Request::Dataplane(Box::new(request)))?;
        loop {
            match response {
                Response::Dataplane(response) => match *response {
                    protocol::Response::Refused { reason } => bail!("sumun-dataplane: {reason}"),
                    response => each(response)?,
                },
                Response::Failed { reason } => bail!(reason),
                other => bail!(astray(&other)),
            }
            response = self.response()?;
        }
    }

    fn exchange(&mut self, kind: Kind, message: &impl Serialize) -> anyhow::Result<Response> {
        protocol::write_frame(&mut self.0, kind, &protocol::encode(message)?).context("sumun control")?;
        self.response()
    }

    fn response(&mut self) -> anyhow::Result<Response> {
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
