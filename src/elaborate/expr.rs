//! Expressions: tensors through pipelines, and static numbers.

use super::frame::{Frame, Val};
use super::network::Builder;
use crate::diag::Diagnostic;
use crate::syntax::ast::{Expr, ExprKind, Operator, Place, Stage};

/// The value of an expression; poison after an error, which is reported.
pub(super) fn eval<'a>(b: &mut Builder<'a>, frame: &mut Frame<'a>, e: &'a Expr) -> Val {
    if !b.step(&e.place) {
        return Val::Poison;
    }
    b.deeper(|b| {
        let value = match &e.kind {
            ExprKind::Int(v) => Ok(Val::Int(*v)),
            ExprKind::Real(v) => Ok(Val::Real(*v)),
            ExprKind::Dims(dims) => Ok(Val::Dims(dims.clone())),
            ExprKind::Name(name) => match (frame.get(name), name.as_str()) {
                (None, "true") => Ok(Val::Bool(true)),
                (None, "false") => Ok(Val::Bool(false)),
                _ => frame.find(name, &e.place),
            },
            ExprKind::Call(call) => Ok(b.call(frame, call, None)),
            ExprKind::Pipe(head, stages) => pipe(b, frame, head, stages),
            ExprKind::Binary(left, operator, right) => {
                let (left, right) = (eval(b, frame, left), eval(b, frame, right));
                binary(&left, *operator, &right, &e.place)
            }
            ExprKind::Negative(inner) => {
                let value = eval(b, frame, inner);
                binary(&Val::Int(0), Operator::Sub, &value, &e.place)
            }
            ExprKind::If { arms, otherwise } => choose(b, frame, arms, otherwise),
        };
        b.report.take(value).unwrap_or(Val::Poison)
    })
}

fn pipe<'a>(
    b: &mut Builder<'a>,
    frame: &mut Frame<'a>,
    head: &'a Expr,
    stages: &'a [Stage],
) -> Result<Val, Diagnostic> {
    let naming = frame.naming.take();
    let mut value = eval(b, frame, head);
    frame.naming = naming;
    let mut place = &head.place;
    for stage in stages {
        let times = match &stage.times {
            Some(times) => repetitions(b, frame, times)?,
            None => 1,
        };
        for _ in 0..times {
            value = b.call(frame, &stage.call, Some((value, place)));
            // Later stages may have errors of their own, further repetitions have the same ones.
            if value == Val::Poison {
                break;
            }
        }
        place = &stage.call.place;
    }
    Ok(value)
}

fn repetitions<'a>(b: &mut Builder<'a>, frame: &mut Frame<'a>, times: &'a Expr) -> Result<i64, Diagnostic> {
    const MOST: i64 = super::MAX_NODES as i64;
    match eval(b, frame, times) {
        Val::Int(n @ 0..=MOST) => Ok(n),
        Val::Poison => Ok(0),
        Val::Int(n) => {
            let error = Diagnostic::new(
                "E0303",
                format!("a stage cannot be repeated {n} times; 0 to {MOST} are possible"),
            );
            Err(times.place.mark(error, "out of range").help("give the number of repetitions"))
        }
        other => {
            let error = Diagnostic::new(
                "E0302",
                format!("a stage is repeated an integer of times, but this is {}", other.kind()),
            );
            Err(times.place.mark(error, "not an integer").help("for example `|> basic(16) * 3`"))
        }
    }
}

fn choose<'a>(
    b: &mut Builder<'a>,
    frame: &mut Frame<'a>,
    arms: &'a [(Expr, Expr)],
    otherwise: &'a Expr,
) -> Result<Val, Diagnostic> {
    for (condition, value) in arms {
        match eval(b, frame, condition) {
            Val::Bool(true) => return Ok(eval(b, frame, value)),
            Val::Bool(false) => {}
            Val::Poison => return Ok(Val::Poison),
            other => {
                let error = Diagnostic::new(
                    "E0302",
                    format!("a condition is true or false, but this is {}", other.kind()),
                );
                return Err(condition
                    .place
                    .mark(error, "not a condition")
                    .help("compare numbers: `if stride == 1 { ... }`"));
            }
        }
    }
    Ok(eval(b, frame, otherwise))
}

fn binary(left: &Val, operator: Operator, right: &Val, place: &Place) -> Result<Val, Diagnostic> {
    use Operator::{Add, And, Div, Eq, Mul, Ne, Or, Sub};
    let real = |value: &Val| match value {
        Val::Int(v) => Some(*v as f64),
        Val::Real(v) => Some(*v),
        _ => None,
    };
    match (left, operator, right) {
        (Val::Poison, ..) | (.., Val::Poison) => return Ok(Val::Poison),
        (Val::Bool(a), And, Val::Bool(b)) => return Ok(Val::Bool(*a && *b)),
        (Val::Bool(a), Or, Val::Bool(b)) => return Ok(Val::Bool(*a || *b)),
        (Val::Bool(a), Eq, Val::Bool(b)) => return Ok(Val::Bool(a == b)),
        (Val::Bool(a), Ne, Val::Bool(b)) => return Ok(Val::Bool(a != b)),
        (Val::Int(a), _, Val::Int(b)) if operator.compare(*a, *b).is_some() => {
            return Ok(Val::Bool(operator.compare(*a, *b) == Some(true)));
        }
        (Val::Int(a), Add | Sub | Mul | Div, Val::Int(b)) => {
            return integer(*a, operator, *b, place).map(Val::Int);
        }
        _ => {}
    }
    let (Some(a), Some(b)) = (real(left), real(right)) else {
        let message = format!("`{}` cannot join {} and {}", operator.text(), left.kind(), right.kind());
        return Err(place.mark(Diagnostic::new("E0302", message), "does not fit").help(match operator {
            And | Or => "both sides are conditions: `stride == 1 and channels == 16`",
            _ => "both sides are numbers; tensors are added with `add(x, y)`",
        }));
    };
    let value = match operator {
        Add => a + b,
        Sub => a - b,
        Mul => a * b,
        Div => a / b,
        _ => return Ok(compared(a, operator, b)),
    };
    if value.is_finite() {
        Ok(Val::Real(value))
    } else {
        Err(fails(place, format!("{a} {} {b} is not finite", operator.text())))
    }
}

fn compared(a: f64, operator: Operator, b: f64) -> Val {
    // Both are finite, so that they have an order.
    let order = a.partial_cmp(&b).map_or(0, |order| order as i64);
    Val::Bool(operator.compare(order, 0) == Some(true))
}

fn integer(a: i64, operator: Operator, b: i64, place: &Place) -> Result<i64, Diagnostic> {
    let value = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Sub => a.checked_sub(b),
        Operator::Mul => a.checked_mul(b),
        _ if b == 0 => return Err(fails(place, format!("{a} / 0 has no value"))),
        _ if a.checked_rem(b) != Some(0) => {
            return Err(fails(place, format!("{a} / {b} is not a whole number")));
        }
        _ => a.checked_div(b),
    };
    value.ok_or_else(|| fails(place, format!("{a} {} {b} does not fit into 64 bits", operator.text())))
}

fn fails(place: &Place, message: String) -> Diagnostic {
    place.mark(Diagnostic::new("E0306", message), "fails here").help("sizes are whole numbers below 2^63")
}
