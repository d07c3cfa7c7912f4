//! Why a packet is INVALID: conntrack could not place it, or its protocol's tracker refused it.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident $text:literal,)*) => {
        /// Why a packet is INVALID, for logs, traces and counters.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Invalid {
            $($(#[doc = $doc])* $name,)*
        }

        impl Invalid {
            /// Every reason, by its number.
            pub const ALL: [Invalid; reasons!(@count $($name)*)] = [$(Invalid::$name),*];

            /// The name in counters.
            pub const fn name(self) -> &'static str {
                match self { $(Invalid::$name => $text,)* }
            }

            /// One line for people.
            pub const fn explain(self) -> &'static str {
                match self { $(Invalid::$name => concat!($($doc),*),)* }
            }
        }
    };
    (@count $($name:ident)*) => { [$(reasons!(@one $name)),*].len() };
    (@one $name:ident) => { () };
}

reasons! {
    /// A fragment without ports to place it by.
    Fragment "fragment",
    /// Its protocol's header is not all there.
    Truncated "truncated",
    /// Its checksum is wrong.
    Checksum "checksum",
    /// An ICMP type that does not exist, or a malformed redirect.
    IcmpType "icmp-type",
    /// An ICMP error that quotes no known flow, or comes to another than the sender of what it quotes.
    IcmpError "icmp-error",
    /// An answer without a question: it may not begin a flow.
    NoQuery "no-query",
    /// A UDP or UDP-Lite length that does not fit the packet, or UDP-Lite without a checksum.
    UdpLength "udp-length",
    /// An enhanced GRE header that carries something else than PPP.
    GreVersion "gre-version",
    /// A combination of TCP flags that no sane sender makes.
    TcpFlags "tcp-flags",
    /// A TCP segment that may not be the first of a connection.
    TcpNew "tcp-new",
    /// A TCP segment that cannot come in the connection's state.
    TcpState "tcp-state",
    /// A TCP segment beyond the receiver's window.
    TcpSequence "tcp-sequence",
    /// A TCP segment that acknowledges what was never sent.
    TcpAcknowledgement "tcp-acknowledgement",
    /// A TCP reset before what its sender has acknowledged.
    TcpReset "tcp-reset",
    /// SCTP chunks that are malformed or may not come together.
    SctpChunks "sctp-chunks",
    /// An SCTP chunk that may not be the first of an association.
    SctpNew "sctp-new",
    /// An SCTP verification tag that is not the association's.
    SctpTag "sctp-tag",
    /// An SCTP chunk that cannot come in the association's state.
    SctpState "sctp-state",
}
