//! What passes between plugin and agent: requests and replies from whoever has the socket.
//! In: a body, of a request or of a reply. Out: nothing, or a broken promise.
//! Invariant: what can be read says the same when it is written and read again.
//! Never: opens a socket.

use cni::protocol::{Answer, Fault, MESSAGE_MAX, PROTOCOL_VERSION, Reply, Request};

/// One input.
pub fn run(bytes: &[u8]) {
    match Request::read(bytes) {
        Ok(request) => {
            assert!((1..=PROTOCOL_VERSION).contains(&request.version));
            let body = serde_json::to_vec(&request).expect("what was read can be written");
            assert_eq!(Request::read(&body), Ok(request));
        }
        Err(fault) => told(&fault),
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(bytes) {
        let body = serde_json::to_vec(&reply).expect("what was read can be written");
        let again: Reply = serde_json::from_slice(&body).expect("what was written can be read");
        // A report may hold numbers whose last digit JSON does not keep.
        assert!(again == reply || matches!(reply, Ok(Answer::Report { .. })), "{again:?} was {reply:?}");
        let framed = cni::client::frame(&body).expect("a fuzzer's message is short");
        assert_eq!(framed.len(), body.len() + 4);
        assert!(
            u32::try_from(body.len()).is_ok_and(|length| length <= MESSAGE_MAX && framed[..4] == length.to_be_bytes())
        );
    }
}

fn told(fault: &Fault) {
    assert!([6, 100].contains(&fault.code), "{}: {fault}", fault.code);
    assert!(!fault.message.contains('\n'), "more than one line: {:?}", fault.message);
}
