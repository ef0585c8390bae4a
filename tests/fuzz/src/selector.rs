//! Selectors: text that people write, and labels it is held against.
//! In: a selector's text, and behind a zero byte labels as `key=value` lines. Out: nothing, or a broken promise.
//! Invariant: what is read prints as text that reads the same, and an answer given on few labels stands when all are told.
//! Never: a selector made otherwise than by reading.

use model::{EffectiveLabels, Incomplete, InvalidSelector, Labels, Parent, Selector, Truth};

/// One input.
pub fn run(bytes: &[u8]) {
    let input = String::from_utf8_lossy(bytes);
    let (text, told) = input.split_once('\0').unwrap_or((&input, ""));
    match text.parse::<Selector>() {
        Ok(selector) => {
            reads_back(&selector);
            reads_back(&selector.of_namespaces());
            matches(&selector, &labels(told));
        }
        Err(error) => points_into(text, &error),
    }
}

fn labels(told: &str) -> Labels {
    let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    told.lines().filter_map(pair).collect()
}

fn reads_back(selector: &Selector) {
    let text = selector.to_string();
    assert_eq!(text.parse::<Selector>().as_ref(), Ok(selector), "{text}");
}

fn matches(selector: &Selector, all: &Labels) {
    let whole = selector.matches(all);
    assert_ne!(whole, Truth::Unknown, "every label was told");
    assert_ne!(selector.clone().negated().matches(all), whole);
    let some: Labels = all.iter().step_by(2).collect();
    let early = selector.matches(&Incomplete(&some));
    assert!(early == Truth::Unknown || early == whole, "{selector}: {early:?} on {some:?}, {whole:?} on {all:?}");
    let shop = "shop".into();
    let pod = EffectiveLabels::pod(all, &shop, Some(all), Parent::Named { name: "web", labels: Some(all) });
    assert_ne!(selector.matches(&pod), Truth::Unknown, "all was told of the pod");
}

fn points_into(text: &str, error: &InvalidSelector) {
    let length = text.chars().count();
    assert!((1..=length + 1).contains(&error.position), "{error}");
    assert_eq!(error.position == length + 1, error.found == "the end", "{error}");
    assert!(!error.to_string().contains('\n'), "more than one line: {error}");
}
