//! Questions about sets, and what is to be done with them.

use serde::{Deserialize, Serialize};
use sumun_config::set::{Element, Header};

/// What is asked of sets, or done with them. Elements are numbers already: their text is read where it is written.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum SetRequest {
    /// What sets are there? Answered by [`SetAnswer::Sets`].
    List {
        /// Only this one.
        name: Option<String>,
    },
    /// A page of a set's elements. Answered by [`SetAnswer::Elements`].
    Elements {
        /// The set.
        name: String,
        /// Where to begin: 0, then what the last page gave as `next`.
        from: u64,
    },
    /// Adds elements, until one cannot be. Answered by [`SetAnswer::Done`].
    Add {
        /// The set.
        name: String,
        /// In order.
        elements: Vec<Element>,
        /// Those that are there begin anew.
        exist: bool,
    },
    /// Deletes elements, until one cannot be.
    Delete {
        /// The set.
        name: String,
        /// In order.
        elements: Vec<Element>,
        /// Those that are not there are passed over.
        exist: bool,
    },
    /// Is the element in the set? Answered by [`SetAnswer::Tested`].
    Test {
        /// The set.
        name: String,
        /// The element.
        element: Element,
    },
    /// Deletes all elements of a set, or of all.
    Flush {
        /// The set.
        name: Option<String>,
    },
    /// Exchanges two sets of one type: each has the other's elements, at once for every packet.
    Swap {
        /// One.
        from: String,
        /// The other.
        to: String,
    },
    /// Gives a set another name.
    Rename {
        /// The set.
        from: String,
        /// A name that no set has.
        to: String,
    },
    /// Makes a set.
    Create {
        /// What it is.
        header: Header,
        /// One that is there and is the same is left as it is.
        exist: bool,
    },
    /// Destroys a set that nothing refers to, or all that were created this way.
    Destroy {
        /// The set.
        name: Option<String>,
    },
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum SetAnswer {
    /// It was done.
    Done,
    /// Whether the element is in the set.
    Tested(bool),
    /// The sets, by name.
    Sets(Vec<SetRow>),
    /// Elements of a set.
    Elements {
        /// Those of this page.
        elements: Vec<Element>,
        /// Where the next page begins; none after the last.
        next: Option<u64>,
    },
}

/// A set as it is listed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SetRow {
    /// What it is called now.
    pub name: String,
    /// What it is.
    pub header: Header,
    /// Bytes reserved.
    pub memory: u64,
    /// Rules and lists that refer to it.
    pub references: u32,
    /// Elements.
    pub entries: u64,
    /// The configuration declares it.
    pub declared: bool,
}
