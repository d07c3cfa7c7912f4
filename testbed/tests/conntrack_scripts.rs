//! Connection tracking step by step, as the kernel does it: each script runs through both.

use anyhow::Result;
use sumun_config::facts::Family;
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::script::{ACK, FIN, Script, TELL, Talk, expect_none, segment};

#[test]
fn a_connection_opens_and_closes() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-open", std::process::id()))?;
    let scripts = Family::ALL.map(|family| {
        let talk = Talk::new(family);
        Script::new("a connection", family, TELL).steps(talk.open()).steps([
            talk.there(&segment(ACK).seq(1001).ack(5001).data(10)),
            talk.back(&segment(ACK | FIN).seq(5001).ack(1011)),
            talk.there(&segment(ACK | FIN).seq(1011).ack(5002)),
            talk.back(&segment(ACK).seq(5002).ack(1012)),
        ])
    });
    expect_none(&mut kernel, &scripts)
}
