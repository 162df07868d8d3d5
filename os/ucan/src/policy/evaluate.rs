//! Whether a statement holds.

use std::cmp::Ordering;

use ipld_core::ipld::Ipld;

use super::{Comparison, Statement};

impl Statement {
    pub(super) fn holds(&self, args: &Ipld) -> bool {
        match self {
            Statement::Compare(comparison, selector, value) => {
                selector.select(args).is_some_and(|found| comparison.holds(&found, value))
            }
            Statement::Like(selector, glob) => {
                matches!(selector.select(args).as_deref(), Some(Ipld::String(text)) if glob.matches(text))
            }
            Statement::Not(inner) => !inner.holds(args),
            Statement::And(list) => list.iter().all(|inner| inner.holds(args)),
            // An empty one is true ("Or").
            Statement::Or(list) => list.is_empty() || list.iter().any(|inner| inner.holds(args)),
            Statement::All(selector, inner) => {
                selector.select(args).is_some_and(|found| quantify(&found, |mut v| v.all(|v| inner.holds(v))))
            }
            Statement::Any(selector, inner) => {
                selector.select(args).is_some_and(|found| quantify(&found, |mut v| v.any(|v| inner.holds(v))))
            }
        }
    }
}

/// Over a list's elements or a map's values; over anything else nothing holds ("Quantification").
fn quantify(value: &Ipld, holds: impl FnOnce(Box<dyn Iterator<Item = &Ipld> + '_>) -> bool) -> bool {
    match value {
        Ipld::List(list) => holds(Box::new(list.iter())),
        Ipld::Map(map) => holds(Box::new(map.values())),
        _ => false,
    }
}

impl Comparison {
    fn holds(self, found: &Ipld, value: &Ipld) -> bool {
        let order = || number_order(found, value);
        match self {
            Comparison::Equal => equal(found, value),
            Comparison::NotEqual => !equal(found, value),
            Comparison::Less => order() == Some(Ordering::Less),
            Comparison::LessOrEqual => order().is_some_and(Ordering::is_le),
            Comparison::Greater => order() == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => order().is_some_and(Ordering::is_ge),
        }
    }
}

/// Deep; 1 and 1.0 are the same number ("Comparisons").
fn equal(a: &Ipld, b: &Ipld) -> bool {
    match (a, b) {
        (Ipld::List(a), Ipld::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Ipld::Map(a), Ipld::Map(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && equal(a, b))
        }
        _ => a == b || number_order(a, b) == Some(Ordering::Equal),
    }
}

fn number_order(a: &Ipld, b: &Ipld) -> Option<Ordering> {
    match (a, b) {
        (Ipld::Integer(a), Ipld::Integer(b)) => Some(a.cmp(b)),
        (Ipld::Float(a), Ipld::Float(b)) => a.partial_cmp(b),
        (Ipld::Integer(a), Ipld::Float(b)) => integer_order(*a, *b),
        (Ipld::Float(a), Ipld::Integer(b)) => integer_order(*b, *a).map(Ordering::reverse),
        _ => None,
    }
}

/// Exact: no integer is rounded to a float.
fn integer_order(integer: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // Saturates for what no integer here can reach.
    let whole = float.trunc() as i128;
    Some(integer.cmp(&whole).then_with(|| {
        if float.fract() > 0.0 {
            Ordering::Less
        } else if float.fract() < 0.0 {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    }))
}

#[cfg(test)]
mod tests {
    use crate::ipld::from_json;
    use crate::policy::Policy;

    fn allows(policy: &str, args: &str) -> bool {
        let value = |text: &str| from_json(text.as_bytes()).unwrap();
        Policy::parse(&value(policy)).unwrap().allows(&value(args))
    }

    #[test]
    fn numbers_are_compared_exactly_and_only_with_numbers() {
        for (policy, args, expected) in [
            (r#"[["==",".a",1.0]]"#, r#"{"a":1}"#, true),
            (r#"[["==",".a",[{"b":1.0}]]]"#, r#"{"a":[{"b":1}]}"#, true),
            (r#"[["<",".a",1.5]]"#, r#"{"a":1}"#, true),
            (r#"[[">",".a",-1.5]]"#, r#"{"a":-1}"#, true),
            (r#"[["<",".a",-0.5]]"#, r#"{"a":-1}"#, true),
            (r#"[["<",".a",-0.5]]"#, r#"{"a":0}"#, false),
            (r#"[["==",".a",9007199254740992.0]]"#, r#"{"a":9007199254740993}"#, false),
            (r#"[[">",".a",9007199254740992.0]]"#, r#"{"a":9007199254740993}"#, true),
            (r#"[["<",".a",1e300]]"#, r#"{"a":9223372036854775807}"#, true),
            (r#"[["<",".a",1]]"#, r#"{"a":"0"}"#, false),
            (r#"[[">=",".a",1]]"#, r#"{"a":"0"}"#, false),
            (r#"[["!=",".a",1]]"#, r#"{"a":"1"}"#, true),
            (r#"[["==",".a",1]]"#, r#"{"a":true}"#, false),
        ] {
            assert_eq!(allows(policy, args), expected, "{policy} of {args}");
        }
    }

    #[test]
    fn what_is_not_there_is_false_and_its_negation_true() {
        for (policy, expected) in [
            (r#"[["==",".x",null]]"#, true),
            (r#"[["==",".x.y",null]]"#, false),
            (r#"[["==",".x.y?",null]]"#, true),
            (r#"[["!=",".x.y",1]]"#, false),
            (r#"[["not",["==",".x.y",1]]]"#, true),
            (r#"[["like",".n","*"]]"#, false),
            (r#"[["all",".n",["==",".",1]]]"#, false),
            (r#"[["any",".n",["==",".",1]]]"#, false),
            (r#"[["all",".e",["==",".",1]]]"#, true),
            (r#"[["any",".e",["==",".",1]]]"#, false),
            (r#"[["all",".m",[">",".",0]]]"#, true),
            (r#"[["any",".m",["==",".",2]]]"#, true),
            (r#"[["or",[]]]"#, true),
            ("[]", true),
        ] {
            assert_eq!(allows(policy, r#"{"n":1,"e":[],"m":{"a":1,"b":2}}"#), expected, "{policy}");
        }
    }
}
