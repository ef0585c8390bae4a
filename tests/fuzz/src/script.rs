//! A script: what a fuzzer's bytes say happens at a node, packet by packet.
//! In: bytes. Out: steps, each a frame at a hook.
//! Invariant: any bytes are a script, and every script has bytes; a step costs three bytes beside its frame.
//! Never: knows a node; `scene` and the packet tests put steps to theirs.

/// More steps than any stage can tell apart.
const STEPS_MAX: usize = 12;

/// Where a frame comes in. The node has two pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Sent by this pod.
    Pod(usize),
    /// On its way to this pod, from there.
    ToPod(usize, From),
    /// Received on the uplink.
    Uplink,
}

/// Where the host has a frame for a pod from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// It made it.
    Host,
    /// It came in by the uplink.
    Uplink,
    /// This pod sent it.
    Pod(usize),
}

/// What happens before a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// Half a minute.
    Pause,
    /// The second pod's rules become those of the first, or its own again.
    NewRules,
    /// The second pod goes away, or comes back.
    Readiness,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// What happens first.
    pub before: Before,
    /// Where it comes in.
    pub place: Place,
    /// A VLAN tag was taken off it.
    pub vlan: bool,
    /// Its bytes.
    pub frame: &'a [u8],
}

/// The steps that these bytes stand for: `place and more, length as two bytes, little end first, frame`, repeated. The
/// last frame may be shorter than it says.
pub fn steps(mut bytes: &[u8]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    while let [control, low, high, rest @ ..] = bytes {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (frame, after) = rest.split_at(length);
        steps.push(Step { before: before(*control), place: place(*control), vlan: control & 8 != 0, frame });
        bytes = after;
        if steps.len() == STEPS_MAX {
            break;
        }
    }
    steps
}

fn place(control: u8) -> Place {
    match control & 7 {
        0 => Place::Pod(0),
        1 => Place::Pod(1),
        2 => Place::Uplink,
        3 => Place::ToPod(0, From::Host),
        4 => Place::ToPod(1, From::Host),
        5 => Place::ToPod(1, From::Uplink),
        6 => Place::ToPod(1, From::Pod(0)),
        _ => Place::ToPod(0, From::Pod(1)),
    }
}

fn before(control: u8) -> Before {
    match control >> 4 {
        13 => Before::Readiness,
        14 => Before::Pause,
        15 => Before::NewRules,
        _ => Before::Nothing,
    }
}

/// The bytes of one step: `control` as above.
pub fn write(control: u8, frame: &[u8]) -> Vec<u8> {
    let length = u16::try_from(frame.len()).expect("a script's frame is short");
    [&[control], &length.to_le_bytes()[..], frame].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = [write(0, b"first"), write(0xea, b"second"), vec![6, 9, 0, 1]].concat();
        let found = steps(&bytes);
        let frames: Vec<_> = found.iter().map(|step| (step.before, step.place, step.vlan, step.frame)).collect();
        let expected: [(_, _, _, &[u8]); 3] = [
            (Before::Nothing, Place::Pod(0), false, b"first"),
            (Before::Pause, Place::Uplink, true, b"second"),
            (Before::Nothing, Place::ToPod(1, From::Pod(0)), false, &[1]),
        ];
        assert_eq!(frames, expected);
    }
}
