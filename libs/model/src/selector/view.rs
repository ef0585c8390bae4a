//! What a selector may see: the effective labels of an endpoint or network set, looked up where they are kept.
//! In: own labels, and those of the namespace and the service account. Out: one label at a time, as far as it is known.
//! Invariant: nobody names its own namespace, account or orchestrator: such labels of its own are not seen.
//! Never: a merged copy; a cluster has tens of thousands of pods.

use crate::{
    Labels, NamespaceName, Profile,
    label::{
        ACCOUNT_PREFIX, KUBERNETES, KUBERNETES_NAME, NAME, NAMESPACE, NAMESPACE_PREFIX, ORCHESTRATOR, SERVICE_ACCOUNT,
    },
};

/// What is known of one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label<'a> {
    /// Its value.
    Is(&'a str),
    /// It is not there.
    Absent,
    /// Nobody has said.
    Unknown,
}

impl<'a> Label<'a> {
    fn of(labels: &'a Labels, key: &str) -> Self {
        labels.get(key).map_or(Self::Absent, Self::Is)
    }
}

/// Where labels can be looked up.
pub trait LabelView {
    /// What is known of the label `key`.
    fn label(&self, key: &str) -> Label<'_>;
}

impl LabelView for Labels {
    fn label(&self, key: &str) -> Label<'_> {
        Label::of(self, key)
    }
}

/// Labels of which only these are told.
#[derive(Clone, Copy, Debug)]
pub struct Incomplete<'a>(pub &'a Labels);

impl LabelView for Incomplete<'_> {
    fn label(&self, key: &str) -> Label<'_> {
        self.0.get(key).map_or(Label::Unknown, Label::Is)
    }
}

/// A namespace or service account, whose labels are inherited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent<'a> {
    /// There is none.
    None,
    /// There is one, and nobody has said which.
    Unknown,
    /// This one.
    Named {
        /// Its name.
        name: &'a str,
        /// Its labels; `None`: nobody has described it.
        labels: Option<&'a Labels>,
    },
}

impl<'a> Parent<'a> {
    fn name(self) -> Label<'a> {
        match self {
            Self::None => Label::Absent,
            Self::Unknown => Label::Unknown,
            Self::Named { name, .. } => Label::Is(name),
        }
    }

    fn is_complete(self) -> bool {
        match self {
            Self::None => true,
            Self::Named { labels, .. } => labels.is_some(),
            Self::Unknown => false,
        }
    }

    /// Its name is its own to say, whatever its labels say of it.
    fn each_known(self, each: &mut dyn FnMut(&str, &str)) {
        let Self::Named { name, labels } = self else { return };
        each(NAME, name);
        let others = labels.into_iter().flat_map(Labels::iter).filter(|(key, _)| *key != NAME);
        others.for_each(|(key, value)| each(key, value));
    }

    /// Its own label; its name is known before it is described.
    fn label(self, key: &str) -> Label<'a> {
        match self {
            Self::None => Label::Absent,
            Self::Named { name, .. } if key == NAME => Label::Is(name),
            Self::Named { labels: Some(labels), .. } => Label::of(labels, key),
            Self::Unknown | Self::Named { labels: None, .. } => Label::Unknown,
        }
    }
}

/// The labels that selectors are matched against (SEL-9), as Calico joins them (libcalico-go/lib/backend/k8s/conversion
/// and syncersv1/updateprocessors): own ones, `pcns.KEY` of the namespace, `pcsa.KEY` of the service account, the names of all
/// three, and what else its profiles apply.
#[derive(Clone, Copy, Debug)]
pub struct EffectiveLabels<'a> {
    own: &'a Labels,
    orchestrator: Option<&'a str>,
    namespace: Parent<'a>,
    account: Parent<'a>,
    applied: [Option<&'a Labels>; Profile::NAMED_MAX],
}

impl<'a> EffectiveLabels<'a> {
    /// A pod's. `namespace_labels`: `None` while nobody has described the namespace.
    #[must_use]
    pub fn pod(
        own: &'a Labels,
        namespace: &'a NamespaceName,
        namespace_labels: Option<&'a Labels>,
        account: Parent<'a>,
    ) -> Self {
        let namespace = Parent::Named { name: &namespace.0, labels: namespace_labels };
        Self { own, orchestrator: Some(KUBERNETES), namespace, account, applied: [None; Profile::NAMED_MAX] }
    }

    /// A network set's of a namespace (CAL-33).
    #[must_use]
    pub fn network_set(own: &'a Labels, namespace: &'a NamespaceName, namespace_labels: Option<&'a Labels>) -> Self {
        let namespace = Parent::Named { name: &namespace.0, labels: namespace_labels };
        Self { namespace, ..Self::global_network_set(own) }
    }

    /// A global network set's.
    #[must_use]
    pub fn global_network_set(own: &'a Labels) -> Self {
        Self {
            own,
            orchestrator: None,
            namespace: Parent::None,
            account: Parent::None,
            applied: [None; Profile::NAMED_MAX],
        }
    }

    /// A host endpoint's: it is in no namespace, and no pod (CAL-38).
    #[must_use]
    pub fn host_endpoint(own: &'a Labels) -> Self {
        Self::global_network_set(own)
    }

    /// With the labels that these profiles apply, in this order, where nothing nearer says something else
    /// (felix/labelindex/label_inheritance_index.go).
    #[must_use]
    pub fn with_applied(mut self, applied: impl IntoIterator<Item = &'a Labels>) -> Self {
        self.applied.iter_mut().zip(applied).for_each(|(place, labels)| *place = Some(labels));
        self
    }

    /// Calls `each` with every label that is known.
    pub fn each_known(&self, each: &mut dyn FnMut(&str, &str)) {
        let is_own = |key: &str| {
            ![NAMESPACE, SERVICE_ACCOUNT, ORCHESTRATOR].contains(&key)
                && !key.starts_with(NAMESPACE_PREFIX)
                && !key.starts_with(ACCOUNT_PREFIX)
        };
        self.own.iter().filter(|(key, _)| is_own(key)).for_each(|(key, value)| each(key, value));
        for (key, label) in [(NAMESPACE, self.namespace.name()), (SERVICE_ACCOUNT, self.account.name())] {
            if let Label::Is(name) = label {
                each(key, name);
            }
        }
        if let Some(orchestrator) = self.orchestrator {
            each(ORCHESTRATOR, orchestrator);
        }
        for (prefix, parent) in [(NAMESPACE_PREFIX, self.namespace), (ACCOUNT_PREFIX, self.account)] {
            parent.each_known(&mut |key, value| each(&format!("{prefix}{key}"), value));
        }
        if let Label::Is(name) = self.namespace.name() {
            each(&format!("{NAMESPACE_PREFIX}{KUBERNETES_NAME}"), name);
        }
        for (key, value) in self.applied.into_iter().flatten().flat_map(|labels| labels.iter()) {
            if !matches!(self.told(key), Label::Is(_)) && self.label(key) == Label::Is(value) {
                each(key, value);
            }
        }
    }

    /// Whether every label is known: what is not told is absent.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.namespace.is_complete() && self.account.is_complete()
    }

    /// The namespace's name as the API server writes it into its labels (NP-41) is known as long as the name is.
    fn namespace_label(&self, key: &str) -> Label<'a> {
        if key == KUBERNETES_NAME { self.namespace.name() } else { self.namespace.label(key) }
    }
}

impl EffectiveLabels<'_> {
    /// What is said of it, profiles apart.
    fn told(&self, key: &str) -> Label<'_> {
        match key {
            NAMESPACE => self.namespace.name(),
            SERVICE_ACCOUNT => self.account.name(),
            ORCHESTRATOR => self.orchestrator.map_or(Label::Absent, Label::Is),
            _ => {
                if let Some(key) = key.strip_prefix(NAMESPACE_PREFIX) {
                    self.namespace_label(key)
                } else if let Some(key) = key.strip_prefix(ACCOUNT_PREFIX) {
                    self.account.label(key)
                } else {
                    Label::of(self.own, key)
                }
            }
        }
    }
}

impl LabelView for EffectiveLabels<'_> {
    fn label(&self, key: &str) -> Label<'_> {
        match self.told(key) {
            Label::Absent | Label::Unknown if ![NAMESPACE, SERVICE_ACCOUNT, ORCHESTRATOR].contains(&key) => {
                let applied = self.applied.into_iter().flatten().find_map(|labels| labels.get(key));
                applied.map_or_else(|| self.told(key), Label::Is)
            }
            told => told,
        }
    }
}
