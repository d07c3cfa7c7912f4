//! RATEEST, rateest and IDLETIMER as the kernel has them: every script runs through the kernel and through the engine.

use anyhow::Result;
use sumun_config::facts::Family;
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::script::{Datagram, Script, Talk, expect_none};

/// An estimator of what is forwarded, and what it says in the traffic class of the packet that asks.
fn rules(asks: &str) -> String {
    format!(
        "*raw\n-A PREROUTING -p udp -j RATEEST --rateest-name a --rateest-interval 250ms --rateest-ewmalog 500ms\nCOMMIT\n\
         *mangle\n-A FORWARD -p udp -m rateest {asks} -j TOS --set-tos 0x20/0xff\nCOMMIT\n"
    )
}

#[test]
fn estimators_rise_and_fall_as_the_kernels() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-rate", std::process::id()))?;
    let mut scripts = Vec::new();
    for family in Family::ALL {
        for asks in [
            "--rateest a --rateest-gt --rateest-pps 2",
            "--rateest a ! --rateest-gt --rateest-bps 1kbit",
            "--rateest-delta --rateest a --rateest-pps1 4 --rateest-lt --rateest-pps2 3",
            "--rateest1 a --rateest2 a --rateest-eq --rateest-pps --rateest-bps",
        ] {
            let talk = Talk::new(family);
            let datagram = Datagram(&[7; 400]);
            // Enough in a quarter of a second to be seen in the next, whatever part of it was in which; then nothing.
            let script =
                (0..30).fold(Script::new(asks, family, &rules(asks)), |script, _| script.step(talk.there(&datagram)));
            scripts.push(script.wait(350).step(talk.there(&datagram)).wait(4000).step(talk.there(&datagram)));
        }
    }
    expect_none(&mut kernel, &scripts)
}

#[test]
fn timers_let_packets_pass_as_the_kernels() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-timer", std::process::id()))?;
    let mut scripts = Vec::new();
    for family in Family::ALL {
        let rules = "*mangle\n-A FORWARD -j IDLETIMER --timeout 5 --label sumun-script\n-A FORWARD -j TOS --set-tos 0x20/0xff\nCOMMIT\n";
        let talk = Talk::new(family);
        scripts.push(
            Script::new("a timer", family, rules).step(talk.there(&Datagram(b"x"))).step(talk.back(&Datagram(b"y"))),
        );
    }
    expect_none(&mut kernel, &scripts)
}
