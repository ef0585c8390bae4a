//! Handover: what a program tells the next one about a packet that both judge, in the packet's control block.
//! In: `cb[0..2]` as the program before left it, and the generation in force. Out: the generation to judge by.
//! Invariant: only the generation in force, or the one before it, is ever taken.
//! Never: a verdict: whoever else can write there gains nothing but the revision that was in force a moment ago.

/// In `cb[0]`: `cb[1]` is the low half of a generation.
pub const MAGIC: u32 = 0x746f_7274;

/// The same, of a packet that a gate left to the uplink's program to judge, for a service leads it on: if it is not translated, it
/// goes nowhere.
pub const AHEAD: u32 = 0x746f_7273;

/// In `cb[0]`: an answer that a program gives to the node itself, about a packet that did not leave.
pub const ANSWER: u32 = 0x746f_7261;

/// In the mark of a packet that a pod's program leaves to the host's stack, for a foreign service proxy to translate: the
/// sender's rules were not asked yet. Whoever takes it away gains nothing: packets of pods without an entry are judged all the
/// same where they leave the stack. Of Calico's own bits, so that it meets nobody else's where that was.
pub const UNJUDGED: u32 = 1 << 29;

/// The words that hand a generation on.
#[inline(always)]
#[must_use]
pub const fn to_cb(generation: u64) -> [u32; 2] {
    [MAGIC, generation as u32]
}

/// The same of a packet that a service leads on.
#[inline(always)]
#[must_use]
pub const fn to_cb_ahead(generation: u64) -> [u32; 2] {
    [AHEAD, generation as u32]
}

/// The generation by which a packet with these words is judged, while `present` is in force.
#[inline(always)]
#[must_use]
pub const fn from_cb([magic, generation]: [u32; 2], present: u64) -> u64 {
    let behind = (present as u32).wrapping_sub(generation);
    if (magic == MAGIC || magic == AHEAD) && behind <= 1 { present.wrapping_sub(behind as u64) } else { present }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_generation_in_force_or_the_one_before_is_taken() {
        for present in [5, 1 << 32, (1 << 32) + 1] {
            assert_eq!(from_cb(to_cb(present), present), present);
            for words in [to_cb(present - 1), to_cb_ahead(present - 1)] {
                assert_eq!(from_cb(words, present), present - 1, "{present}: a commit came between");
            }
            assert_eq!(from_cb(to_cb(present - 2), present), present, "{present}: too old");
            assert_eq!(from_cb(to_cb(present + 1), present), present, "{present}: of nobody's");
            assert_eq!(from_cb([0, (present - 1) as u32], present), present, "{present}: no magic");
        }
    }
}
