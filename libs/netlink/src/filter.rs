//! BPF filters on an interface, and the clsact queueing discipline that they hang on.
//! In: an interface, a side, a program. Out: filters as they are.
//! Invariant: a filter is known by side, priority, handle and name; one that is replaced leaves no moment without one.
//! Never: deletes by pattern.

use crate::{Error, Socket, error::deleted, socket::About};
use model::Ifindex;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use std::{
    collections::BTreeSet,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Every protocol (`ETH_P_ALL`, include/uapi/linux/if_ether.h), as it goes over the wire.
const EVERY_PROTOCOL: u16 = 0x0003u16.to_be();
/// Where clsact hangs on an interface (`TC_H_CLSACT`, include/uapi/linux/pkt_sched.h).
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
const CLSACT_KIND: &str = "clsact";

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// In by the interface.
    Ingress,
    /// Out by it.
    Egress,
}

impl Side {
    const fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => 0xfff2,
            Self::Egress => 0xfff3,
        };
        TcHandle { major: 0xffff, minor }
    }
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// On this link.
    pub interface: Ifindex,
    /// Of these packets.
    pub side: Side,
    /// Its place among the others: the smallest comes first.
    pub priority: u16,
    /// Its number within the priority.
    pub handle: u32,
    /// What whoever made it calls it; empty for other kinds than BPF.
    pub name: String,
    /// The program it runs, by the kernel's number.
    pub program: Option<u32>,
}

impl Socket {
    /// The links that can have filters: those with a clsact, or an ingress discipline.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn filtered_links(&mut self) -> Result<BTreeSet<Ifindex>, Error> {
        let about = About { operation: "list", object: &"queueing disciplines" };
        let listing = self.dump(about, &Message::GetQueueDiscipline(TcMessage::default()))?;
        let filtered = listing.iter().filter_map(|message| {
            let Message::NewQueueDiscipline(found) = message else { return None };
            let kinds = [CLSACT_KIND, "ingress"];
            let takes = |a: &TcAttribute| matches!(a, TcAttribute::Kind(kind) if kinds.contains(&kind.as_str()));
            found.attributes.iter().any(takes).then_some(Ifindex(found.header.index.cast_unsigned()))
        });
        Ok(filtered.collect())
    }

    /// Gives a link a clsact. `false`: it has one, or an ingress discipline, which takes ingress filters as well.
    ///
    /// # Errors
    /// The link is not there, or the kernel refuses.
    pub fn add_clsact(&mut self, interface: Ifindex) -> Result<bool, Error> {
        let mut message = on(interface, CLSACT);
        message.header.handle = TcHandle { major: 0xffff, minor: 0 };
        message.attributes.push(TcAttribute::Kind(CLSACT_KIND.to_owned()));
        let about = About { operation: "add clsact", object: &format!("to interface {}", interface.0) };
        match self.change(about, Message::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if error.is_present() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a link's clsact away, with every filter on it. `false`: there was none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_clsact(&mut self, interface: Ifindex) -> Result<bool, Error> {
        let about = About { operation: "delete clsact", object: &format!("of interface {}", interface.0) };
        deleted(self.change(about, Message::DelQueueDiscipline(on(interface, CLSACT)), 0))
    }

    /// The filters of one side of a link, whoever made them.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn filters(&mut self, interface: Ifindex, side: Side) -> Result<Vec<Filter>, Error> {
        let about = About { operation: "list filters", object: &format!("of interface {}", interface.0) };
        let listing = self.dump(about, &Message::GetTrafficFilter(on(interface, side.parent())))?;
        Ok(listing.iter().filter_map(|message| filter_of(message, interface, side)).collect())
    }

    /// Puts a filter there that runs this program and takes its verdict as it is (direct action). One of the same
    /// place and handle is replaced at once.
    ///
    /// # Errors
    /// The link has no clsact, another kind of filter has this priority, or the kernel refuses.
    pub fn replace_filter(&mut self, filter: &Filter, program: BorrowedFd<'_>) -> Result<(), Error> {
        let mut message = place_of(filter);
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
            TcOption::Bpf(TcFilterBpfOption::ProgName(filter.name.clone())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        let about = About { operation: "replace filter", object: &said(filter) };
        self.change(about, Message::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Deletes exactly this filter. `false`: it was not there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_filter(&mut self, filter: &Filter) -> Result<bool, Error> {
        let about = About { operation: "delete filter", object: &said(filter) };
        deleted(self.change(about, Message::DelTrafficFilter(place_of(filter)), 0))
    }
}

fn said(filter: &Filter) -> String {
    format!("{} at {:?} of interface {}", filter.name, filter.side, filter.interface.0)
}

fn on(interface: Ifindex, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = interface.0.cast_signed();
    message.header.parent = parent;
    message
}

fn place_of(filter: &Filter) -> TcMessage {
    let mut message = on(filter.interface, filter.side.parent());
    message.header.handle = filter.handle.into();
    message.header.info = u32::from(filter.priority) << 16 | u32::from(EVERY_PROTOCOL);
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message
}

/// The filter a message is about. Beside filters the kernel lists the heads of their lists, which have no handle.
fn filter_of(message: &Message, interface: Ifindex, side: Side) -> Option<Filter> {
    let Message::NewTrafficFilter(message) = message else { return None };
    let handle = u32::from(message.header.handle);
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let (mut name, mut program) = (String::new(), None);
    for option in options.flatten() {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(found)) => name.clone_from(found),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => program = Some(*id),
            _ => {}
        }
    }
    let priority = (message.header.info >> 16) as u16;
    (handle != 0).then_some(Filter { interface, side, priority, handle, name, program })
}
