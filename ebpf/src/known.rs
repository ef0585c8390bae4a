//! Known: a packet of a flow that is in force passes at once; whatever else there is to ask, is asked apart.
//! In: a whole packet, its flow's note or entry. Out: the slot that it goes to, or nothing: it has to be asked about.
//! Invariant: says what [`crate::flow`] would; where it says nothing, it has written nothing that counts.
//! Never: reads a rule; keeps or refuses a flow; finds a backend.

use abi::conntrack::{CT_VIA_HOST, NAT_MASQUERADED, NAT_NONE, NAT_TRANSLATED};

use crate::choice;
use crate::conntrack::{self, Currency, Found, Tracked};
use crate::parse::Fragment;
use crate::recent::{self, Note};
use crate::tables::{Frame, Tables};
use crate::walk::{Hook, State, Walk};

/// What is found of a packet's flow at first sight.
pub(crate) enum Sight {
    /// It goes to this slot.
    Passes(u32),
    /// It has to be asked about; whether its key has no entry at all.
    Asks(bool),
}

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// Where a packet goes by its flow's note or entry. Those of which more is to be found out are asked about from the
    /// beginning: by then the verifier, and the processor's registers, have forgotten all this.
    #[inline(always)]
    pub(crate) fn at_first_sight(&self, state: &mut State) -> Sight {
        if state.packet.fragment != Fragment::Whole {
            return Sight::Asks(false);
        }
        let note = self.note(state);
        // No closures on this way: with two of a kind the compiler makes calls of them.
        if let Some(note) = note
            && let Some(slot) = self.by_note(state, note)
        {
            return Sight::Passes(slot);
        }
        let from_low = conntrack::key(&state.packet, &mut state.key);
        let found = conntrack::find(self.tables, &state.key, &state.packet, from_low);
        let Some(tracked) = found.tracked() else {
            return Sight::Asks(found.place.is_none());
        };
        if !self.goes_on(state, &tracked) {
            return Sight::Asks(false);
        }
        let (source, destination) = tracked.slots();
        state.slot = if self.hook == Hook::FromWorkload { source } else { destination };
        state.via_host = tracked.flow.flags.get() & CT_VIA_HOST != 0;
        state.tracked = true;
        if tracked.flow.nat_kind.get() != NAT_NONE {
            self.gives_back(state, &tracked);
            self.goes_masked(state, &tracked);
        }
        tracked.touch::<T>(&state.packet);
        if let Some(note) = note {
            note.take(self.tables, state, &tracked);
        }
        Sight::Passes(destination)
    }

    /// Whether a packet only goes on in a flow: one in force, that it changes nothing of.
    #[inline(always)]
    fn goes_on(&self, state: &State, tracked: &Tracked<'_>) -> bool {
        let is_plain = match tracked.flow.nat_kind.get() {
            NAT_NONE => !tracked.is_asked_again(&state.packet),
            // What its backend answers goes by the flow itself.
            NAT_TRANSLATED => matches!(self.hook, Hook::FromWorkload | Hook::FromUplink) && !tracked.from_opener(),
            NAT_MASQUERADED => self.goes_out_masked(tracked),
            _ => false,
        };
        is_plain
            && self.is_at_its_place(tracked, state)
            && tracked.currency(self.tables, state.packet.protocol) == Currency::Current
            && !tracked.is_refused()
            && !tracked.is_due(&state.packet)
    }

    /// A place for the note of a packet's flow. What leaves the stack is not noted.
    #[inline(always)]
    pub(crate) fn note(&self, state: &State) -> Option<&'_ Note> {
        let leaves_stack = matches!(self.hook, Hook::ToWorkload | Hook::ToHostEndpoint | Hook::FromNode);
        if leaves_stack { None } else { recent::note(self.tables, &state.packet) }
    }

    /// The slot a packet goes to by the note of its flow, if that still holds.
    #[inline(always)]
    fn by_note(&self, state: &mut State, note: &Note) -> Option<u32> {
        let (source, destination) = note.slots();
        let holds = note.is_of(&state.packet, self.tables.now_s())
            && self.comes_from(source, destination, state)
            && conntrack::currency_between(self.tables, (source, destination), note.stamp()) == Currency::Current;
        if !holds || note.is_outlived(self.tables) || !self.is_still_behind(state, note) {
            return None;
        }
        note.translates(state);
        state.slot = if self.hook == Hook::FromWorkload { source } else { destination };
        state.tracked = true;
        note.count(&state.packet);
        Some(destination)
    }

    /// Whether the backend that a note names is still the one that was chosen.
    #[inline(always)]
    fn is_still_behind(&self, state: &State, note: &Note) -> bool {
        let Some((slot, stamp)) = note.backend() else {
            return true;
        };
        let Some(backend) = self.tables.backend(slot) else {
            return false;
        };
        choice::standing(self.tables, backend, state.generation) != 0 && backend.was_there(stamp)
    }
}

impl Found<'_> {
    /// A key without any entry.
    #[inline(always)]
    pub(crate) const fn nothing(now_s: u32, from_low: bool) -> Self {
        Self { flow: None, from_low, now_s, half_open: false, place: None }
    }
}
