//! Selectors as fields of Calico's resources.
//! In: a field's text, if it is there. Out: [`Selector`], or where it stops being one.
//! Invariant: an empty text is as good as none, as in Calico's API.
//! Never: `global()` beside something else, or outside a rule's namespaceSelector.

use super::super::field::InvalidField;
use model::Selector;

/// A selector of endpoints or service accounts.
pub(super) fn given(path: &str, text: Option<&str>) -> Result<Option<Selector>, InvalidField> {
    let selector = parsed(path, text)?;
    if selector.as_ref().is_some_and(Selector::says_global) {
        return Err(InvalidField::new(path, "global() may stand in the namespaceSelector of a rule only; remove it"));
    }
    Ok(selector)
}

/// The namespaceSelector of a rule.
pub(super) fn namespaces(path: &str, text: Option<&str>) -> Result<Option<Selector>, InvalidField> {
    let selector = parsed(path, text)?;
    if selector.as_ref().is_some_and(|selector| *selector != Selector::Global && selector.says_global()) {
        return Err(InvalidField::new(path, "global() cannot be combined; give it a rule of its own"));
    }
    Ok(selector)
}

fn parsed(path: &str, text: Option<&str>) -> Result<Option<Selector>, InvalidField> {
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|error| InvalidField::new(path, error))).transpose()
}
