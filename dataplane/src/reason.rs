//! Why packets end: one [`DropReason`] for each way, counted per worker, never twice for one packet.

/// What a reason says of the router: did it do as told, was the packet bad, or was there too much?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The rules or routes said so.
    Policy,
    /// The packet was malformed, unwanted or could not be placed.
    Error,
    /// A resource was full.
    Overload,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident $text:literal $class:ident,)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])* $name,)*
        }

        impl DropReason {
            /// Every reason, by its number.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name),*];

            /// The name in `sumun drops`, in traces and in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }

            /// What the reason says of the router.
            pub const fn class(self) -> Class {
                match self { $(DropReason::$name => Class::$class,)* }
            }

            /// One line for people.
            pub const fn explain(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc),*),)* }
            }
        }
    };
}

reasons! {
    /// A rule with DROP, or a match that drops malformed packets on sight.
    RuleDrop "rule-drop" Policy,
    /// The policy of a built-in chain is DROP.
    PolicyDrop "policy-drop" Policy,
    /// A rule with REJECT; an answer was sent where one is due.
    Reject "reject" Policy,
    /// A segment in whose place SYNPROXY sent others: it was answered, or its connection was opened.
    Synproxy "synproxy" Policy,
    /// The route is a blackhole.
    Blackhole "blackhole" Policy,
    /// The route is unreachable, or there is none.
    NoRoute "no-route" Policy,
    /// The route leads over a device of the host that is no port of the router.
    NotAPort "not-a-port" Policy,
    /// The route is prohibited.
    Prohibit "prohibit" Policy,
    /// Forwarding is off for this family.
    ForwardingOff "forwarding-off" Policy,
    /// The reverse-path filter: the source would not be reached through this port.
    ReversePath "reverse-path" Policy,
    /// Shorter than its Ethernet header.
    ShortFrame "short-frame" Error,
    /// Longer than a frame of the packet memory.
    FrameTooLong "frame-too-long" Error,
    /// Neither IPv4, IPv6 nor ARP.
    EtherType "ethertype" Error,
    /// Tagged for a VLAN that no port has.
    UnknownVlan "unknown-vlan" Error,
    /// Addressed to another host on the link.
    OtherHost "other-host" Error,
    /// IP header: version, header length or total length do not fit the frame.
    IpHeader "ip-header" Error,
    /// IPv4 header checksum is wrong.
    IpChecksum "ip-checksum" Error,
    /// IPv4 source route or a malformed option.
    IpOptions "ip-options" Error,
    /// IPv6 extension headers are malformed or too many.
    Ipv6Extension "ipv6-extension" Error,
    /// Source or destination may not appear on a link (loopback, multicast source, zero).
    Martian "martian" Error,
    /// TTL or hop limit ran out; time exceeded was sent where due.
    TtlExpired "ttl-expired" Error,
    /// Larger than the path MTU and not to be fragmented; fragmentation needed / packet too big was sent where due.
    TooBig "too-big" Error,
    /// The next hop does not answer; host unreachable was sent where due.
    NeighbourFailed "neighbour-failed" Error,
    /// ARP or neighbour discovery message that is malformed or not for us.
    Arp "arp" Error,
    /// A protocol that nobody listens to on the router's own address, or an answer that nobody waits for.
    NoListener "no-listener" Error,
    /// A fragment to the router itself: its local stack takes whole packets only.
    LocalFragment "local-fragment" Error,
    /// Overlaps another fragment of its packet, which ends with all its fragments (RFC 5722).
    FragmentOverlap "fragment-overlap" Error,
    /// All of this fragment was there already.
    FragmentDuplicate "fragment-duplicate" Error,
    /// Without data, beyond its packet's end, or of a packet whose fragments do not go together.
    FragmentMalformed "fragment-malformed" Error,
    /// Its packet did not come together in time, or its sender sent too many others meanwhile.
    FragmentTimeout "fragment-timeout" Error,
    /// A broadcast or multicast packet that the router does not forward.
    NotForwarded "not-forwarded" Error,
    /// A mapping could not be chosen: no address on the port, or the range is full.
    NatExhausted "nat-exhausted" Overload,
    /// A rewrite was impossible (truncated header).
    NatFailed "nat-failed" Error,
    /// The route of a masqueraded flow leads out of another port now; the flow was forgotten.
    MasqueradeMoved "masquerade-moved" Policy,
    /// A rule with NFQUEUE, or QUEUE: nobody can listen to a queue.
    QueueUnheard "queue-unheard" Policy,
    /// A target met a TCP header that it could not parse, or whose checksum is wrong.
    MalformedTcp "malformed-tcp" Error,
    /// SYNPROXY met an acknowledgement of no SYN that it had answered.
    SynproxyCookie "synproxy-cookie" Error,
    /// Another first packet of the same flow was confirmed before this one.
    ConntrackClash "conntrack-clash" Error,
    /// The protocol's tracker told to drop it (`nf_conntrack_in` returns NF_DROP).
    ConntrackDrop "conntrack-drop" Error,
    /// A line that a helper has to read is cut off or makes no sense; its sender repeats it.
    HelperPartial "helper-partial" Error,
    /// A packet has no room for the address that a helper has to write into it.
    HelperNoRoom "helper-no-room" Error,
    /// A flow that a helper announces cannot be expected: too many are, or another is expected there.
    ExpectationRefused "expectation-refused" Overload,
    /// The flow table is full and nothing in it could be dropped early.
    ConntrackFull "conntrack-full" Overload,
    /// Too many fragments wait for the rest of their packets, or too many for one packet.
    FragmentQueue "fragment-queue" Overload,
    /// The queue of packets that wait for a neighbour is full.
    NeighbourQueue "neighbour-queue" Overload,
    /// The neighbour table is full.
    NeighbourTable "neighbour-table" Overload,
    /// No frame was free for a packet of the router's own.
    NoFrame "no-frame" Overload,
    /// The transmit ring was full.
    TxRing "tx-ring" Overload,
    /// The ring to the worker that owns the outgoing queue was full.
    Handover "handover" Overload,
    /// The local stack's queue was full.
    LocalQueue "local-queue" Overload,
    /// The host's own stack does not take so much: the ring to its TAPs was full.
    HostQueue "host-queue" Overload,
}
