//! Packets through services that hardware has summed: the sum goes with what is rewritten, or the kernel would sum them again.
//! In: packets of both protocols, to a backend and back, also one that is its own. Out: the packet, its kept sum right.
//! Invariant: every packet is also what an ordinary run makes of it.
//! Never: a packet that opens a flow: each is run twice.

use super::{PORT, TARGET, VIP, received, served};
use crate::{
    cast::{Actor, CLIENT, DB, Family},
    frame::{ACK, Frame, SYN},
    kernel::{Kernel, on_a_node},
    table::Hook,
};

fn becomes(kernel: &Kernel, hook: Hook, sent: &Frame, wanted: Frame, by: Actor) {
    assert_eq!(kernel.run_summed(hook, &sent.bytes()), received(wanted, by));
}

#[test]
fn a_sum_that_hardware_made_of_a_packet_stays_right_through_a_service() {
    for backend in [DB, CLIENT] {
        on_a_node(|| {
            let mut kernel = served(&[backend]);
            // A pod that is its own backend is seen as the service.
            let seen = if backend == CLIENT { VIP } else { CLIENT };
            for f in Family::BOTH {
                kernel.run(Hook::Pod(CLIENT), &CLIENT.tcp(f, VIP, (40000, PORT), SYN).bytes());
                let (sent, wanted) =
                    (CLIENT.tcp(f, VIP, (40000, PORT), ACK), seen.tcp(f, backend, (40000, TARGET), ACK));
                becomes(&kernel, Hook::Pod(CLIENT), &sent, wanted, backend);
                let (sent, wanted) =
                    (backend.tcp(f, seen, (TARGET, 40000), ACK), VIP.tcp(f, CLIENT, (PORT, 40000), ACK));
                becomes(&kernel, Hook::Pod(backend), &sent, wanted, CLIENT);
                for data in [&b"odd"[..], b"even"] {
                    let (sent, wanted) =
                        (CLIENT.udp(f, VIP, (40000, PORT), data), seen.udp(f, backend, (40000, TARGET), data));
                    becomes(&kernel, Hook::Pod(CLIENT), &sent, wanted, backend);
                    let (sent, wanted) =
                        (backend.udp(f, seen, (TARGET, 40000), data), VIP.udp(f, CLIENT, (PORT, 40000), data));
                    becomes(&kernel, Hook::Pod(backend), &sent, wanted, CLIENT);
                }
            }
        });
    }
}
