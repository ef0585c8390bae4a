//! One kind of work on many items, by several threads.
//! In: items, and what is to be made of each. Out: what was made of them, in their order.
//! Invariant: a thread has enough to do to be worth its start; few items are the caller's own work.
//! Never: outlives the call.

use std::{num::NonZero, panic, thread};

/// Files whose reading is worth a thread.
const FILES_MIN: usize = 64;

/// Does what processors are busy with: a share for each of them.
pub(crate) fn computed<T: Sync, R: Send>(items: &[T], make: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    shared_out(items, items.len().div_ceil(processors).max(FILES_MIN), make)
}

/// Does what waits for something else: in at most so many threads.
pub(crate) fn awaited<T: Sync, R: Send>(items: &[T], threads: usize, make: impl Fn(&T) -> R + Sync) -> Vec<R> {
    shared_out(items, items.len().div_ceil(threads).max(1), make)
}

fn shared_out<T: Sync, R: Send>(items: &[T], share: usize, make: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let shares: Vec<_> = items.chunks(share).collect();
    let all = |items: &[T]| items.iter().map(&make).collect::<Vec<_>>();
    let Some((last, others)) = shares.split_last() else { return Vec::new() };
    thread::scope(|scope| {
        let others: Vec<_> = others.iter().map(|items| scope.spawn(|| all(items))).collect();
        let last = all(last);
        // A panic of the work is the caller's panic.
        let join =
            |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|said| panic::resume_unwind(said));
        others.into_iter().flat_map(join).chain(last).collect()
    })
}
