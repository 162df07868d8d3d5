//! UCAN 1.0's policy language (<https://github.com/ucan-wg/delegation>, "Policy"): predicates over an invocation's arguments.
//!
//! A statement is `[operator, selector, value]`, or `[connective, statements]`. What cannot be evaluated (a path that is not there,
//! a comparison of unlike things) is false, never an error; so `not` of it is true, as the specification has it. Where the
//! specification leaves it open, the narrower reading holds: `any` over nothing is false.

mod evaluate;
mod glob;
mod selector;

use std::fmt;

use ipld_core::ipld::Ipld;

use crate::ipld;
use glob::Glob;
use selector::Selector;

/// Statements within statements.
pub const MAX_DEPTH: usize = 8;
/// Statements in one policy, inner ones included.
pub const MAX_STATEMENTS: usize = 64;
/// Bytes of a selector or a pattern.
pub const MAX_TEXT: usize = 256;

/// All of its statements must hold. An empty one always holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy(Vec<Statement>);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Statement {
    Compare(Comparison, Selector, Ipld),
    Like(Selector, Glob),
    Not(Box<Statement>),
    And(Vec<Statement>),
    Or(Vec<Statement>),
    All(Selector, Box<Statement>),
    Any(Selector, Box<Statement>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("a policy is a list of statements")]
    NotAList,
    #[error("a statement is a list that begins with its operator")]
    NotAStatement,
    #[error("`{0}` is no operator, or has other operands")]
    Operator(String),
    #[error("`{0}` is no selector")]
    Selector(String),
    #[error("`{0}` compares with numbers only")]
    NotANumber(&'static str),
    #[error("a selector or pattern is longer than {MAX_TEXT} bytes")]
    TooLong,
    #[error("statements are more than {MAX_DEPTH} within each other")]
    TooDeep,
    #[error("there are more than {MAX_STATEMENTS} statements")]
    TooMany,
}

impl Policy {
    pub fn parse(value: &Ipld) -> Result<Self, PolicyError> {
        let Ipld::List(list) = value else { return Err(PolicyError::NotAList) };
        let mut left = MAX_STATEMENTS;
        Ok(Self(statements(list, MAX_DEPTH, &mut left)?))
    }

    pub fn to_ipld(&self) -> Ipld {
        Ipld::List(self.0.iter().map(Statement::to_ipld).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every statement holds for these arguments.
    pub fn allows(&self, args: &Ipld) -> bool {
        self.0.iter().all(|statement| statement.holds(args))
    }

    /// The first statement that does not hold, for people.
    pub fn broken_by(&self, args: &Ipld) -> Option<String> {
        let broken = self.0.iter().find(|statement| !statement.holds(args))?;
        Some(ipld::to_json(&broken.to_ipld()).to_string())
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ipld::to_json(&self.to_ipld()).fmt(f)
    }
}

fn statements(list: &[Ipld], depth: usize, left: &mut usize) -> Result<Vec<Statement>, PolicyError> {
    list.iter().map(|value| Statement::parse(value, depth, left)).collect()
}

impl Statement {
    fn parse(value: &Ipld, depth: usize, left: &mut usize) -> Result<Self, PolicyError> {
        let depth = depth.checked_sub(1).ok_or(PolicyError::TooDeep)?;
        *left = left.checked_sub(1).ok_or(PolicyError::TooMany)?;
        let Ipld::List(parts) = value else { return Err(PolicyError::NotAStatement) };
        let (Ipld::String(operator), operands) = parts.split_first().ok_or(PolicyError::NotAStatement)?
        else {
            return Err(PolicyError::NotAStatement);
        };
        match (operator.as_str(), operands) {
            ("and", [Ipld::List(list)]) => Ok(Statement::And(statements(list, depth, left)?)),
            ("or", [Ipld::List(list)]) => Ok(Statement::Or(statements(list, depth, left)?)),
            ("not", [inner]) => Ok(Statement::Not(Box::new(Self::parse(inner, depth, left)?))),
            ("all", [Ipld::String(s), inner]) => {
                Ok(Statement::All(Selector::parse(s)?, Box::new(Self::parse(inner, depth, left)?)))
            }
            ("any", [Ipld::String(s), inner]) => {
                Ok(Statement::Any(Selector::parse(s)?, Box::new(Self::parse(inner, depth, left)?)))
            }
            ("like", [Ipld::String(s), Ipld::String(glob)]) => {
                Ok(Statement::Like(Selector::parse(s)?, Glob::parse(glob)?))
            }
            (word, [Ipld::String(s), value]) => Self::comparison(word, s, value),
            _ => Err(unknown(operator)),
        }
    }

    fn comparison(word: &str, selector: &str, value: &Ipld) -> Result<Self, PolicyError> {
        let comparison = Comparison::parse(word).ok_or_else(|| unknown(word))?;
        let number = matches!(value, Ipld::Integer(_) | Ipld::Float(_));
        if !number && !matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
            return Err(PolicyError::NotANumber(comparison.word()));
        }
        Ok(Statement::Compare(comparison, Selector::parse(selector)?, value.clone()))
    }

    fn to_ipld(&self) -> Ipld {
        let text = |text: &str| Ipld::String(text.to_owned());
        let all = |list: &[Statement]| Ipld::List(list.iter().map(Statement::to_ipld).collect());
        Ipld::List(match self {
            Statement::Compare(c, s, value) => vec![text(c.word()), text(s.text()), value.clone()],
            Statement::Like(s, glob) => vec![text("like"), text(s.text()), text(glob.text())],
            Statement::Not(inner) => vec![text("not"), inner.to_ipld()],
            Statement::And(list) => vec![text("and"), all(list)],
            Statement::Or(list) => vec![text("or"), all(list)],
            Statement::All(s, inner) => vec![text("all"), text(s.text()), inner.to_ipld()],
            Statement::Any(s, inner) => vec![text("any"), text(s.text()), inner.to_ipld()],
        })
    }
}

impl Comparison {
    const ALL: [Comparison; 6] = [
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
    ];

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Comparison::Equal => "==",
            Comparison::NotEqual => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }
}

fn unknown(operator: &str) -> PolicyError {
    PolicyError::Operator(operator.chars().take(20).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Policy, PolicyError> {
        Policy::parse(&ipld::from_json(json.as_bytes()).unwrap())
    }

    #[test]
    fn is_written_as_it_was_read() {
        let text = r#"[["==",".a[0]",{"b":1.5}],["not",["<=",".b?",2]],["or",[["like",".c","a\\*b*"],["and",[]]]],["all",".d[]",["any",".",["!=",".",null]]]]"#;
        assert_eq!(parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        use PolicyError::*;
        let nested = |n: usize| format!("[{}[\"and\",[]]{}]", "[\"not\",".repeat(n), "]".repeat(n));
        assert!(parse(&nested(MAX_DEPTH - 1)).is_ok());
        assert_eq!(parse(&nested(MAX_DEPTH)), Err(TooDeep));
        let many = |n: usize| format!("[{}]", vec![r#"["and",[]]"#; n].join(","));
        assert!(parse(&many(MAX_STATEMENTS)).is_ok());
        assert_eq!(parse(&many(MAX_STATEMENTS + 1)), Err(TooMany));
        let long = format!(r#"[["==",".{}",1]]"#, "a".repeat(MAX_TEXT));
        assert_eq!(parse(&long), Err(TooLong));
        let long = format!(r#"[["like",".","{}"]]"#, "a".repeat(MAX_TEXT + 1));
        assert_eq!(parse(&long), Err(TooLong));
        for (text, error) in [
            ("{}", NotAList),
            ("[1]", NotAStatement),
            ("[[]]", NotAStatement),
            ("[[1]]", NotAStatement),
            (r#"[["=",".a",1]]"#, Operator("=".into())),
            (r#"[["match",".a","x"]]"#, Operator("match".into())),
            (r#"[["==",".a"]]"#, Operator("==".into())),
            (r#"[["==",".a",1,2]]"#, Operator("==".into())),
            (r#"[["==",1,1]]"#, Operator("==".into())),
            (r#"[["and",["==",".a",1]]]"#, NotAStatement),
            (r#"[["not",[["==",".a",1]]]]"#, NotAStatement),
            (r#"[["like",".a",1]]"#, Operator("like".into())),
            (r#"[["<",".a","1"]]"#, NotANumber("<")),
            (r#"[[">=",".a",null]]"#, NotANumber(">=")),
            (r#"[["==","a",1]]"#, Selector("a".into())),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
