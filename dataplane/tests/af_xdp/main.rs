//! AF_XDP ports on real devices: veth pairs in network namespaces. Needs root.
//!
//! ```text
//!  namespace -a        namespace -r (the router's)       namespace -b
//!  a0 10.9.0.1/24 ───── r0  [ bridge of two ports ]  r1 ───── b0 10.9.0.2/24
//! ```
//! The router is here the simplest that there is: what comes in on one port goes out on the other.

mod losses;
mod opening;
mod passing;
mod rig;
mod sending;

use rig::{enter, open, ports};
use std::io::Read;
use sumun_config::model::Attach;

/// Not a test of its own: the process that the tests above start.
#[test]
fn hold_the_ports_until_killed() {
    let Ok(namespace) = std::env::var("SUMUN_PORTS_HOLD") else { return };
    if !namespace.is_empty() {
        enter(&namespace);
    }
    match open(&ports(Attach::Auto), 1) {
        Ok(_opened) => {
            println!("holding");
            // Ends with its parent, should that not come to kill it.
            let _ = std::io::stdin().read(&mut [0]);
        }
        Err(error) => println!("refused: {error}"),
    }
}
