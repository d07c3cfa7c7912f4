//! What is asked for over HTTP, and answers as they are sent. Pure: bytes in, bytes out.
//!
//! Every answer ends its connection, and is made as a whole before anybody asks: on a worker it is only copied.

use std::sync::Arc;

/// Bytes that a request may have.
pub const LONGEST_REQUEST: usize = 2048;
/// Header lines that a request may have.
const MOST_HEADERS: usize = 64;

/// What can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// `/`, for people.
    Overview,
    /// `/metrics`, for Prometheus.
    Metrics,
}

/// How a request is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// With a page.
    Ok,
    /// This is not HTTP.
    BadRequest,
    /// There is no such page.
    NotFound,
    /// Neither GET nor HEAD.
    NotAllowed,
    /// The request did not come in time.
    Timeout,
    /// The request is longer than any that is meant.
    TooLarge,
    /// The page was not made in time.
    Unavailable,
}

impl Status {
    /// All, by their number as index.
    pub const ALL: [Status; 7] = [
        Status::Ok,
        Status::BadRequest,
        Status::NotFound,
        Status::NotAllowed,
        Status::Timeout,
        Status::TooLarge,
        Status::Unavailable,
    ];

    /// The number and its words.
    pub const fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::NotAllowed => "405 Method Not Allowed",
            Status::Timeout => "408 Request Timeout",
            Status::TooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
        }
    }

    /// The number.
    pub fn code(self) -> &'static str {
        &self.line()[..3]
    }
}

/// What the bytes that came so far say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Not all of it yet.
    Part,
    /// A whole request for a page, or for the head of its answer only.
    Request(Page, Extent),
    /// What cannot be answered with a page.
    Refused(Status),
}

/// How much of an answer is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// GET.
    Whole,
    /// HEAD.
    Head,
}

/// Reads what came on a connection so far.
pub fn hear(bytes: &[u8]) -> Heard {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() >= LONGEST_REQUEST => return Heard::Refused(Status::TooLarge),
        Ok(httparse::Status::Partial) => return Heard::Part,
        Err(httparse::Error::TooManyHeaders) => return Heard::Refused(Status::TooLarge),
        Err(_) => return Heard::Refused(Status::BadRequest),
    }
    let extent = match request.method {
        Some("GET") => Extent::Whole,
        Some("HEAD") => Extent::Head,
        _ => return Heard::Refused(Status::NotAllowed),
    };
    let path = request.path.unwrap_or_default();
    match path.split_once('?').map_or(path, |(path, _)| path) {
        "/" => Heard::Request(Page::Overview, extent),
        "/metrics" => Heard::Request(Page::Metrics, extent),
        _ => Heard::Refused(Status::NotFound),
    }
}

/// A whole answer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Answer {
    bytes: Arc<[u8]>,
    head: usize,
}

impl Answer {
    /// An answer with a body of this type.
    pub fn new(status: Status, content_type: &str, body: &str) -> Answer {
        let allow = if status == Status::NotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
            status.line(),
            body.len()
        );
        Answer { head: head.len(), bytes: [head.as_bytes(), body.as_bytes()].concat().into() }
    }

    /// A refusal, which says what it is.
    pub fn refusal(status: Status) -> Answer {
        Answer::new(status, "text/plain; charset=utf-8", &format!("{}\n", status.line()))
    }

    /// Whether somebody else has it too.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.bytes) > 1
    }

    /// The bytes to send.
    pub fn bytes(&self, extent: Extent) -> &[u8] {
        match extent {
            Extent::Whole => &self.bytes,
            Extent::Head => &self.bytes[..self.head],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_are_found_by_method_and_path() {
        let get = |page| Heard::Request(page, Extent::Whole);
        let cases = [
            ("GET / HTTP/1.1\r\nHost: router\r\n\r\n", get(Page::Overview)),
            ("GET /metrics HTTP/1.1\r\nHost: router\r\n\r\nrest", get(Page::Metrics)),
            ("GET /metrics?x=1 HTTP/1.0\n\n", get(Page::Metrics)),
            ("HEAD /?a HTTP/1.1\r\n\r\n", Heard::Request(Page::Overview, Extent::Head)),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", Heard::Refused(Status::NotFound)),
            ("GET http://router/ HTTP/1.1\r\n\r\n", Heard::Refused(Status::NotFound)),
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd", Heard::Refused(Status::NotAllowed)),
            ("SSH-2.0-OpenSSH_9.2p1\r\n", Heard::Refused(Status::BadRequest)),
            ("GET / HTTP/2.0\r\n\r\n", Heard::Refused(Status::BadRequest)),
            ("\u{16}\u{3}\u{1}", Heard::Refused(Status::BadRequest)),
            ("GET / HTTP/1.1\r\nHost: rou", Heard::Part),
            ("GET / HT", Heard::Part),
            ("", Heard::Part),
        ];
        for (text, expected) in cases {
            assert_eq!(hear(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn requests_are_bounded() {
        let long = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(LONGEST_REQUEST));
        assert_eq!(hear(&long.as_bytes()[..LONGEST_REQUEST - 1]), Heard::Part);
        assert_eq!(hear(&long.as_bytes()[..LONGEST_REQUEST]), Heard::Refused(Status::TooLarge));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MOST_HEADERS + 1));
        assert_eq!(hear(many.as_bytes()), Heard::Refused(Status::TooLarge));
    }

    #[test]
    fn an_answer_says_its_length_and_ends_the_connection() {
        let answer = Answer::new(Status::Ok, "text/plain", "hello\n");
        let text = String::from_utf8(answer.bytes(Extent::Whole).to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Length: 6\r\n") && head.contains("\r\nConnection: close"), "{head}");
        assert_eq!(body, "hello\n");
        assert_eq!(answer.bytes(Extent::Head), &text.as_bytes()[..text.len() - 6]);
        let refusal = Answer::refusal(Status::NotAllowed);
        assert!(String::from_utf8_lossy(refusal.bytes(Extent::Whole)).contains("\r\nAllow: GET, HEAD\r\n"));
        assert_eq!(Status::ALL.map(|status| status as usize), [0, 1, 2, 3, 4, 5, 6]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_heard(bytes in proptest::collection::vec(any::<u8>(), 0..LONGEST_REQUEST)) {
            let _ = hear(&bytes);
        }
    }
}
