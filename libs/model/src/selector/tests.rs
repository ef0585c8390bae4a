//! The selector, row by row: what is read, how it is printed, what it matches.
//! In: texts and labels as tables. Out: matches, canonical texts, and where an error points.
//! Invariant: a row that Calico's own tests have says the same here (libcalico-go/lib/selector/parser/parser_test.go).
//! Never: builds a selector by hand where text can say it.

use super::*;
use crate::{Labels, NamespaceName};

fn selector(text: &str) -> Selector {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn labels(text: &str) -> Labels {
    let pair = |part: &str| part.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    text.split_whitespace().filter_map(pair).collect()
}

/// The label sets of `rows` that match.
fn matching<'a>(text: &str, rows: &[&'a str]) -> Vec<&'a str> {
    let selector = selector(text);
    rows.iter().copied().filter(|row| selector.matches(&labels(row)).surely()).collect()
}

fn refused(text: &str) -> (usize, String) {
    let error = text.parse::<Selector>().expect_err(text);
    assert!(!error.to_string().contains('\n'));
    (error.position, error.expected.to_owned())
}

#[test]
fn sel_1_every_operator_matches_what_it_says() {
    let rows = ["", "a=x", "a=xy", "a=yx", "a=zxz", "b=x"];
    assert_eq!(matching("a == 'x'", &rows), ["a=x"]);
    assert_eq!(matching("a != 'x'", &rows), ["", "a=xy", "a=yx", "a=zxz", "b=x"]);
    assert_eq!(matching("a in {'x', 'xy'}", &rows), ["a=x", "a=xy"]);
    assert_eq!(matching("a not in {'x', 'xy'}", &rows), ["", "a=yx", "a=zxz", "b=x"]);
    assert_eq!(matching("a contains 'x'", &rows), ["a=x", "a=xy", "a=yx", "a=zxz"]);
    assert_eq!(matching("a starts with 'x'", &rows), ["a=x", "a=xy"]);
    assert_eq!(matching("a ends with 'x'", &rows), ["a=x", "a=yx"]);
    assert_eq!(matching("has(a)", &rows), ["a=x", "a=xy", "a=yx", "a=zxz"]);
    assert_eq!(matching("!has(a)", &rows), ["", "b=x"]);
    assert_eq!(matching("all()", &rows), rows);
    assert_eq!(matching("a == 'x' || b == 'x'", &rows), ["a=x", "b=x"]);
    assert_eq!(matching("has(a) && a != 'x'", &rows), ["a=xy", "a=yx", "a=zxz"]);
    assert_eq!(matching("!(has(b) || !has(a))", &rows), ["a=x", "a=xy", "a=yx", "a=zxz"]);
    assert_eq!(matching("a in {}", &rows), [""; 0]);
    assert_eq!(matching("a not in {}", &rows), rows);
}

#[test]
fn sel_1_global_is_what_is_in_no_namespace() {
    let rows = ["a=x", "projectcalico.org/namespace=shop"];
    assert_eq!(matching("global()", &rows), ["a=x"]);
}

#[test]
fn sel_2_np_70_an_absent_label_differs_from_every_value_and_contains_none() {
    for text in ["a != 'x'", "a not in {'x'}", "!a == 'x'", "!a contains 'x'", "!a starts with ''", "!has(a)"] {
        assert_eq!(matching(text, &["", "b=x"]), ["", "b=x"], "{text}");
    }
    for text in ["a == ''", "a contains ''", "a starts with ''", "a ends with ''", "a in {''}", "has(a)"] {
        assert_eq!(matching(text, &["", "b=x"]), [""; 0], "{text}");
        assert_eq!(matching(text, &["a="]), ["a="], "{text}");
    }
}

#[test]
fn sel_3_text_without_content_is_everything() {
    for text in ["", " ", "\t ", " all() ", " (all( ) )"] {
        assert_eq!(selector(text), Selector::All, "{text:?}");
    }
}

#[test]
fn sel_4_sel_1_the_canonical_text_is_calicos() {
    let rows = [
        ("", "all()"),
        ("global( )", "global()"),
        ("! (has( b)||! has(a ))", "!(has(b) || !has(a))"),
        ("! (a == \"b\"&&! c != \"d\")", "!(a == \"b\" && !c != \"d\")"),
        ("a == \"'\"", "a == \"'\""),
        ("a == '\"'", "a == '\"'"),
        ("a contains '\"'", "a contains '\"'"),
        ("a startswith '\"'", "a starts with '\"'"),
        ("a endswith \"'\"", "a ends with \"'\""),
        ("a starts\t with 'x'", "a starts with \"x\""),
        ("a!='\"'", "a != '\"'"),
        ("a notin{'x'}", "a not in {\"x\"}"),
        ("a in{'x',}", "a in {\"x\"}"),
        ("a in {\"z\", \"z\", \"x\", 'y', \"x\", \"a\"}", "a in {\"a\", \"x\", \"y\", \"z\"}"),
        ("a=='1'&&b=='2'||has(c)", "((a == \"1\" && b == \"2\") || has(c))"),
        ("a=='1'&&(b=='2'||has(c))", "(a == \"1\" && (b == \"2\" || has(c)))"),
        ("(has(a) && has(b)) && has(c)", "((has(a) && has(b)) && has(c))"),
        (
            "!(!(k == 'v' && has(t) || all()) && (a in {'b', 'c'}))",
            "!(!((k == \"v\" && has(t)) || all()) && a in {\"b\", \"c\"})",
        ),
    ];
    for (text, canonical) in rows {
        assert_eq!(selector(text).to_string(), canonical, "{text}");
        assert_eq!(selector(canonical), selector(text), "{text}");
    }
}

#[test]
fn sel_5_a_negation_binds_to_the_comparison_behind_it_and_two_are_none() {
    assert_eq!(selector("!a == 'x' && b == 'y'").to_string(), "(!a == \"x\" && b == \"y\")");
    assert_eq!(selector("!!! has(a)"), selector("!has(a)"));
    assert_eq!(selector("!!has(a)"), selector("has(a)"));
    assert_eq!(selector("!! ! has(a)"), selector("! !!has(a)"));
    assert_eq!(selector("!(!has(a))"), selector("has(a)"));
}

#[test]
fn sel_6_a_label_may_be_called_like_an_operator() {
    for text in [
        "in in {'x'}",
        "has == 'x'",
        "all == 'x'",
        "not not in {'x'}",
        "contains contains 'x'",
        "starts.with/x_y-z == 'x'",
    ] {
        assert!(text.parse::<Selector>().is_ok(), "{text}");
    }
}

#[test]
fn sel_6_what_is_no_selector_is_refused_at_the_character_where_it_stops_being_one() {
    const OPERATOR: &str = "==, !=, in, not in, contains, starts with or ends with";
    const TERM: &str = "a label, has(), all(), global(), ! or (";
    const VALUE: &str = "a value in quotes";
    let rows = [
        ("b", 2, OPERATOR),
        ("a ", 3, OPERATOR),
        ("a b", 3, OPERATOR),
        ("app = 'web'", 5, OPERATOR),
        ("a inside {'x'}", 3, OPERATOR),
        ("a starts 'x'", 3, OPERATOR),
        ("has (a)", 5, OPERATOR),
        ("b == b", 6, VALUE),
        ("b contains b", 12, VALUE),
        ("foo != ||", 8, VALUE),
        ("b starts with b", 15, VALUE),
        ("'b1' == b", 1, TERM),
        ("!", 2, TERM),
        ("(", 2, TERM),
        (")", 1, TERM),
        ("()", 2, TERM),
        ("%", 1, TERM),
        ("a == \"b\" && %", 13, TERM),
        ("has(foo) &&", 12, TERM),
        ("\n", 1, TERM),
        ("foo == 'bar' &", 14, "&&, || or the end"),
        ("foo == 'bar' | x", 14, "&&, || or the end"),
        ("foo == 'bar' foo", 14, "&&, || or the end"),
        ("foo == 'bar')", 13, "&&, || or the end"),
        ("(a == 'foo'", 12, "&&, || or )"),
        ("foo in ''", 8, "a set such as {\"a\", \"b\"}"),
        ("foo in {'', ||", 13, "a value in quotes, or }"),
        ("foo in {'a' 'b'}", 13, "a value in quotes, or }"),
        ("foo in {,}", 9, "a value in quotes, or }"),
        ("é == 'x'", 1, TERM),
        ("a == 'é' é", 10, "&&, || or the end"),
        ("a == \"FOO'", 6, "a value with a quote at its end"),
        ("has()", 5, "a label"),
        ("has(a b)", 7, ")"),
        ("all(x)", 5, ")"),
    ];
    for (text, position, expected) in rows {
        assert_eq!(refused(text), (position, expected.to_owned()), "{text}");
    }
}

#[test]
fn an_error_names_the_text_the_character_and_what_was_expected() {
    let error = "app = 'web'".parse::<Selector>().expect_err("there is no operator =");
    let expected = "\"app = 'web'\" is not a selector: at character 5 stands \"= 'web'\", expected was ==, !=, in, not in, \
                    contains, starts with or ends with";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn cal_10_labels_and_parentheses_have_bounds() {
    let label = |length: usize| format!("has({})", "a".repeat(length));
    assert!(label(512).parse::<Selector>().is_ok());
    assert_eq!(refused(&label(513)), (5, "a label of at most 512 characters".into()));
    let nested = |depth: usize| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(selector(&nested(128)), selector("has(a)"));
    assert_eq!(refused(&nested(100_000)).1, "no more than 128 open parentheses");
}

#[test]
fn what_is_not_known_is_never_taken_for_absent() {
    let known = labels("a=x");
    let says = |text: &str| selector(text).matches(&Incomplete(&known));
    for (text, answer) in [
        ("all()", Truth::Yes),
        ("a == 'x'", Truth::Yes),
        ("a not in {'y'}", Truth::Yes),
        ("b not in {'y'}", Truth::Unknown),
        ("!has(b)", Truth::Unknown),
        ("b == 'y'", Truth::Unknown),
        ("has(b) && a == 'y'", Truth::No),
        ("has(b) && a == 'x'", Truth::Unknown),
        ("has(b) || a == 'x'", Truth::Yes),
        ("!(has(b) || a == 'x')", Truth::No),
        ("global()", Truth::Unknown),
    ] {
        assert_eq!(says(text), answer, "{text}");
    }
    assert!(!Truth::Unknown.surely() && Truth::Unknown.possibly());
}

#[test]
fn sel_9_a_pod_is_seen_with_the_labels_of_its_namespace_and_its_service_account() {
    let (own, namespace, account) = (labels("app=web"), labels("team=a"), labels("role=b"));
    let shop = NamespaceName::from("shop");
    let view =
        EffectiveLabels::pod(&own, &shop, Some(&namespace), Parent::Named { name: "web", labels: Some(&account) });
    for text in [
        "app == 'web'",
        "pcns.team == 'a'",
        "pcsa.role == 'b'",
        "projectcalico.org/namespace == 'shop'",
        "projectcalico.org/orchestrator == 'k8s'",
        "projectcalico.org/serviceaccount == 'web'",
        "pcns.projectcalico.org/name == 'shop'",
        "pcns.kubernetes.io/metadata.name == 'shop'",
        "pcsa.projectcalico.org/name == 'web'",
        "!has(team) && !has(role) && !has(pcns.app)",
    ] {
        assert_eq!(selector(text).matches(&view), Truth::Yes, "{text}");
    }
    assert_eq!(selector("global()").matches(&view), Truth::No);
}

#[test]
fn sel_9_nobody_gives_itself_a_namespace_an_account_or_an_orchestrator() {
    let forged = "pcns.team=a pcsa.role=b projectcalico.org/namespace=bank projectcalico.org/serviceaccount=root \
                  projectcalico.org/orchestrator=k8s";
    let own = labels(forged);
    let none = Labels::new();
    let shop = NamespaceName::from("shop");
    let nobody = Parent::Named { name: "default", labels: Some(&none) };
    let views = [
        EffectiveLabels::pod(&own, &shop, Some(&none), nobody),
        EffectiveLabels::network_set(&own, &shop, Some(&none)),
        EffectiveLabels::global_network_set(&own),
    ];
    let says = |text: &str| views.map(|view| selector(text).matches(&view).surely());
    assert_eq!(says("has(pcns.team) || has(pcsa.role)"), [false; 3]);
    assert_eq!(says("projectcalico.org/namespace == 'bank'"), [false; 3]);
    assert_eq!(says("projectcalico.org/serviceaccount == 'root'"), [false; 3]);
    assert_eq!(says("projectcalico.org/orchestrator == 'k8s'"), [true, false, false]);
    assert_eq!(says("projectcalico.org/namespace == 'shop'"), [true, true, false]);
    assert_eq!(says("global()"), [false, false, true]);
}

#[test]
fn of_what_nobody_has_described_only_the_name_is_known() {
    let none = Labels::new();
    let shop = NamespaceName::from("shop");
    let says = |account, text: &str| {
        let view = EffectiveLabels::pod(&none, &shop, None, account);
        selector(text).matches(&view)
    };
    let named = Parent::Named { name: "web", labels: None };
    assert_eq!(says(named, "pcns.kubernetes.io/metadata.name == 'shop'"), Truth::Yes);
    assert_eq!(says(named, "pcns.projectcalico.org/name == 'bank'"), Truth::No);
    assert_eq!(says(named, "pcns.team != 'a'"), Truth::Unknown);
    assert_eq!(says(named, "pcsa.role != 'a'"), Truth::Unknown);
    assert_eq!(says(named, "projectcalico.org/serviceaccount in {'web'}"), Truth::Yes);
    assert_eq!(says(Parent::Unknown, "projectcalico.org/serviceaccount in {'web'}"), Truth::Unknown);
    assert_eq!(says(Parent::None, "pcsa.role != 'a'"), Truth::Yes);
}

#[test]
fn cal_32_a_namespace_selector_is_said_of_what_is_in_the_namespaces() {
    let of = |text: &str| selector(text).of_namespaces().to_string();
    assert_eq!(of("team == 'a' || !has(x)"), "(pcns.team == \"a\" || !has(pcns.x))");
    assert_eq!(of("all()"), "has(projectcalico.org/namespace)");
    assert_eq!(of("global()"), "!has(projectcalico.org/namespace)");
    assert_eq!(of("!global()"), "has(projectcalico.org/namespace)");
    assert_eq!(of("!(all() && k in {'v'})"), "!(has(projectcalico.org/namespace) && pcns.k in {\"v\"})");
    assert_eq!(selector("role == 'x' && all()").of_accounts().to_string(), "(pcsa.role == \"x\" && all())");
}

#[test]
fn global_is_found_wherever_it_stands() {
    assert!(selector("has(a) || !(has(b) && !global())").says_global());
    assert!(!selector("global == 'x' && a == 'global()'").says_global());
}
