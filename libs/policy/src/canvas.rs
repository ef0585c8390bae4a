//! A canvas of `x`, and under it one of source ports wherever a rule asks for them.
//! In: strokes, in the order of the rules. Out: what each stretch is painted with, and the log rules that it met before.
//! Invariant: each place is painted at most once: what is painted first stays.
//! Never: knows what a paint means.

use crate::xset::XSet;
use abi::rules::X_END;
use std::{collections::BTreeMap, ops::Range, rc::Rc};

/// One past the largest source port.
const PORTS_END: u32 = 1 << 16;

/// The log rules that a stretch has met, in order; most meet none.
pub(crate) type Marks<P> = Option<Rc<Vec<P>>>;

/// What a stroke does where nothing is painted yet.
#[derive(Clone, Copy)]
pub(crate) enum Act<P> {
    /// Paints it.
    Paint(P),
    /// Keeps it from this tier.
    Pass,
    /// Notes a log rule, and leaves it blank.
    Mark(P),
}

/// What a stretch of `x` ends as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stroke<P> {
    /// One paint, whatever the source port.
    Plain(P, Marks<P>),
    /// By source port: the first of each stretch.
    Ports(Vec<(u32, P, Marks<P>)>),
}

/// All `x`. n strokes cost n log n however much they overlap; what a tier passes, and where source ports are told apart, is
/// looked at once more by each later stroke over it.
pub(crate) struct Canvas<P> {
    line: Line<P>,
    /// Stretches where the source port matters: start to end, and what is painted by source port.
    mixed: BTreeMap<u32, (u32, Line<P>)>,
}

impl<P: Copy + PartialEq> Canvas<P> {
    pub(crate) fn new() -> Self {
        Self { line: Line::new(X_END, None), mixed: BTreeMap::new() }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.line.is_full() && self.mixed.values().all(|(_, ports)| ports.is_full())
    }

    /// Does it to what is blank of `xs`, from these source ports alone or from all.
    pub(crate) fn apply(&mut self, xs: &Range<u32>, sources: Option<&XSet>, act: Act<P>) {
        for ports in self.mixed_within(xs) {
            ports.apply_each(sources, act);
        }
        if sources.is_none() {
            return self.line.apply(xs, act);
        }
        while let Some((stretch, marks)) = self.line.take(xs) {
            let mut ports = Line::new(PORTS_END, marks);
            ports.apply_each(sources, act);
            self.mixed.insert(stretch.start, (stretch.end, ports));
        }
    }

    /// Paints whatever is blank anywhere in `xs` as one, what was noted or told apart there forgotten: who reads the paint
    /// knows it all.
    pub(crate) fn cover(&mut self, xs: &Range<u32>, paint: P) {
        self.cut_at_ends(xs);
        let open = self.mixed.range(xs.clone()).filter(|(_, (_, ports))| !ports.is_full());
        let open: Vec<_> = open.map(|(start, _)| *start).collect();
        let open = open.iter().filter(|start| self.mixed.remove(start).is_some());
        self.line.painted.extend(open.map(|start| (*start, (paint, None))));
        while let Some((stretch, _)) = self.line.take(xs) {
            self.line.painted.insert(stretch.start, (paint, None));
        }
    }

    /// Makes blank again what the tier has passed on.
    pub(crate) fn wipe_passed(&mut self) {
        self.line.wipe_passed();
        self.mixed.values_mut().for_each(|(_, ports)| ports.wipe_passed());
    }

    /// The painted stretches in order, neighbours of one paint made one. The canvas is full by then.
    pub(crate) fn strokes(self) -> Vec<(u32, Stroke<P>)> {
        let plain = self.line.painted.into_iter().map(|(start, (paint, marks))| (start, Stroke::Plain(paint, marks)));
        let mut strokes: Vec<_> = plain.collect();
        if !self.mixed.is_empty() {
            strokes.extend(self.mixed.into_iter().map(|(start, (_, ports))| (start, ports.stroke())));
            strokes.sort_by_key(|(start, _)| *start);
        }
        strokes.dedup_by(|next, last| next.1 == last.1);
        strokes
    }

    /// The mixed stretches within `xs`, cut at both of its ends.
    fn mixed_within(&mut self, xs: &Range<u32>) -> impl Iterator<Item = &mut Line<P>> {
        self.cut_at_ends(xs);
        self.mixed.range_mut(xs.clone()).map(|(_, (_, ports))| ports)
    }

    fn cut_at_ends(&mut self, xs: &Range<u32>) {
        self.cut(xs.start);
        self.cut(xs.end);
    }

    fn cut(&mut self, at: u32) {
        let Some((_, (end, ports))) = self.mixed.range_mut(..at).next_back().filter(|(_, (end, _))| *end > at) else {
            return;
        };
        let rest = (std::mem::replace(end, at), ports.clone());
        self.mixed.insert(at, rest);
    }
}

/// One dimension of it.
#[derive(Clone)]
struct Line<P> {
    /// Unpainted stretches: start to end.
    blank: BTreeMap<u32, (u32, Marks<P>)>,
    /// Stretches that the present tier has passed on.
    passed: Vec<(Range<u32>, Marks<P>)>,
    /// Painted stretches, by their start. Each reaches to the next one's start, or to one that is not painted.
    painted: BTreeMap<u32, (P, Marks<P>)>,
}

impl<P: Copy + PartialEq> Line<P> {
    fn new(end: u32, marks: Marks<P>) -> Self {
        Self { blank: BTreeMap::from([(0, (end, marks))]), passed: Vec::new(), painted: BTreeMap::new() }
    }

    fn is_full(&self) -> bool {
        self.blank.is_empty() && self.passed.is_empty()
    }

    fn apply_each(&mut self, within: Option<&XSet>, act: Act<P>) {
        match within {
            None => self.apply(&(0..PORTS_END), act),
            Some(within) => within.ranges().for_each(|range| self.apply(&range, act)),
        }
    }

    fn apply(&mut self, xs: &Range<u32>, act: Act<P>) {
        let mut marked = Vec::new();
        while let Some((stretch, marks)) = self.take(xs) {
            match act {
                Act::Paint(paint) => drop(self.painted.insert(stretch.start, (paint, marks))),
                Act::Pass => self.passed.push((stretch, marks)),
                Act::Mark(log) => marked.push((stretch, with(marks, log))),
            }
        }
        self.blank.extend(marked.into_iter().map(|(stretch, marks)| (stretch.start, (stretch.end, marks))));
    }

    fn wipe_passed(&mut self) {
        self.blank.extend(self.passed.drain(..).map(|(stretch, marks)| (stretch.start, (stretch.end, marks))));
    }

    /// The last blank stretch within `xs`, no longer blank.
    fn take(&mut self, xs: &Range<u32>) -> Option<(Range<u32>, Marks<P>)> {
        let (start, end) = self.blank.range(..xs.end).next_back().map(|(start, (end, _))| (*start, *end))?;
        if end <= xs.start {
            return None;
        }
        let (_, marks) = self.blank.remove(&start)?;
        if end > xs.end {
            self.blank.insert(xs.end, (end, marks.clone()));
        }
        if start < xs.start {
            self.blank.insert(start, (xs.start, marks.clone()));
        }
        Some((start.max(xs.start)..end.min(xs.end), marks))
    }

    /// It as a stroke: a plain one where all source ports are painted alike.
    fn stroke(self) -> Stroke<P> {
        let mut ports: Vec<_> = self.painted.into_iter().map(|(start, (paint, marks))| (start, paint, marks)).collect();
        ports.dedup_by(|next, last| (next.1, &next.2) == (last.1, &last.2));
        match &mut ports[..] {
            [(_, paint, marks)] => Stroke::Plain(*paint, marks.take()),
            _ => Stroke::Ports(ports),
        }
    }
}

/// One rule more; several that stand at one place of a policy's list are one to its author.
fn with<P: Copy + PartialEq>(marks: Marks<P>, log: P) -> Marks<P> {
    if marks.as_ref().is_some_and(|marks| marks.contains(&log)) {
        return marks;
    }
    let before = marks.iter().flat_map(|marks| marks.iter().copied());
    Some(Rc::new(before.chain([log]).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const XS: usize = 24;
    const PORTS: usize = 6;
    const CELL: u8 = 100;

    #[derive(Clone, Copy, Debug)]
    enum Does {
        Paint,
        Pass,
        Mark,
        Cover,
        Wipe,
    }

    /// What a place is, said as slowly as possible: what it is painted with, or what it met so far.
    #[derive(Clone, Debug, PartialEq)]
    enum Place {
        Painted(u8, Vec<u8>),
        Blank(Vec<u8>),
        Passed(Vec<u8>),
    }

    struct Model {
        /// Whether source ports were told apart at this `x`, and each of its ports.
        columns: Vec<(bool, Vec<Place>)>,
    }

    impl Model {
        fn step(&mut self, does: Does, xs: Range<usize>, sources: Option<Range<usize>>, number: u8) {
            if let Does::Wipe = does {
                for place in self.columns.iter_mut().flat_map(|(_, ports)| ports) {
                    if let Place::Passed(marks) = place {
                        *place = Place::Blank(marks.clone());
                    }
                }
                return;
            }
            for (mixed, ports) in &mut self.columns[xs] {
                let is_painted = |place: &Place| matches!(place, Place::Painted(..));
                let is_blank = |place: &Place| matches!(place, Place::Blank(_));
                if let Does::Cover = does {
                    let open = if *mixed { !ports.iter().all(is_painted) } else { is_blank(&ports[0]) };
                    if open {
                        (*mixed, *ports) = (false, vec![Place::Painted(CELL, vec![]); PORTS]);
                    }
                    continue;
                }
                *mixed |= sources.is_some() && is_blank(&ports[0]);
                for place in &mut ports[sources.clone().unwrap_or(0..PORTS)] {
                    let Place::Blank(marks) = place else { continue };
                    *place = match does {
                        Does::Paint => Place::Painted(number, marks.clone()),
                        Does::Pass => Place::Passed(marks.clone()),
                        _ => Place::Blank([&marks[..], &[number]].concat()),
                    };
                }
            }
        }
    }

    fn range(most: usize) -> impl Strategy<Value = Range<usize>> {
        (0..most, 1..most).prop_map(move |(start, len)| start..(start + len).min(most))
    }

    fn step() -> impl Strategy<Value = (Does, Range<usize>, Option<Range<usize>>)> {
        let does =
            prop::sample::select(vec![Does::Paint, Does::Paint, Does::Pass, Does::Mark, Does::Cover, Does::Wipe]);
        (does, range(XS), prop::option::of(range(PORTS)))
    }

    fn painted(strokes: &[(u32, Stroke<u8>)], x: usize, port: usize) -> Place {
        let marks = |marks: &Marks<u8>| marks.as_ref().map(|marks| marks.to_vec()).unwrap_or_default();
        let stroke = strokes.iter().rfind(|(start, _)| *start <= x as u32).expect("all are painted");
        match &stroke.1 {
            Stroke::Plain(paint, met) => Place::Painted(*paint, marks(met)),
            Stroke::Ports(ports) => {
                let (_, paint, met) = ports.iter().rfind(|(start, ..)| *start <= port as u32).expect("all are painted");
                Place::Painted(*paint, marks(met))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_place_is_painted_once_by_the_first_that_reaches_it(steps in prop::collection::vec(step(), 0..14)) {
            let mut canvas = Canvas::new();
            let mut model = Model { columns: vec![(false, vec![Place::Blank(vec![]); PORTS]); XS] };
            let last = [(Does::Wipe, 0..XS, None), (Does::Paint, 0..XS, None)];
            for ((does, xs, sources), number) in steps.into_iter().chain(last).zip(0u8..) {
                let (from, to) = (xs.start as u32, xs.end as u32);
                let among = sources.clone().map(|ports| {
                    // The last port stands for all that follow.
                    let end = if ports.end == PORTS { PORTS_END } else { ports.end as u32 };
                    XSet::of(std::iter::once(ports.start as u32..end))
                });
                match does {
                    Does::Paint => canvas.apply(&(from..to), among.as_ref(), Act::Paint(number)),
                    Does::Pass => canvas.apply(&(from..to), among.as_ref(), Act::Pass),
                    Does::Mark => canvas.apply(&(from..to), among.as_ref(), Act::Mark(number)),
                    Does::Cover => canvas.cover(&(from..to), CELL),
                    Does::Wipe => canvas.wipe_passed(),
                }
                model.step(does, xs, sources, number);
            }
            canvas.apply(&(0..X_END), None, Act::Paint(u8::MAX));
            prop_assert!(canvas.is_full());
            let strokes = canvas.strokes();
            for (x, (_, ports)) in model.columns.iter().enumerate() {
                for (port, place) in ports.iter().enumerate() {
                    prop_assert_eq!(&painted(&strokes, x, port), place, "x {} port {}", x, port);
                }
            }
        }
    }
}
