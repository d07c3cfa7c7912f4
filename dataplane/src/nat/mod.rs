//! Network address translation: what a flow's addresses become, and how they are written into its packets.
//!
//! A mapping is chosen once, for the first packet of a flow ([`Tracker::map`]), and then is nothing but the
//! difference between the flow's original tuple and its reply tuple: what packets of one direction become is the inverse
//! of what is expected the other way. [`Tracker::translate`] writes it at each hook; where a flow has no mapping that
//! is one test of a status bit.
//!
//! With several workers a mapped flow's replies may reach another worker than its originals: both see the same table, so it
//! is correct; choosing ports such that both reach the same one needs the devices' RSS mapping and is not done.
//!
//! [`Tracker::map`]: crate::conntrack::Tracker::map
//! [`Tracker::translate`]: crate::conntrack::Tracker::translate

mod source;

pub(crate) use source::Sources;
