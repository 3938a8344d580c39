//! `bulkhead doctor --leftovers`.

use std::path::Path;

use bulkhead_sandbox::leftovers::{Leftover, Search};

use super::print;

/// Whether the host is clean: nothing was found, or all of it was removed.
pub(super) fn run(data_dir: &Path, clean: bool, json: bool) -> bool {
    let search = Search::host(data_dir);
    let found = search.find();
    let outcomes: Vec<(Leftover, Option<Result<(), String>>)> = found
        .into_iter()
        .map(|leftover| {
            let outcome = clean.then(|| leftover.clean());
            (leftover, outcome)
        })
        .collect();
    print(&if json { as_json(&outcomes) } else { as_text(&outcomes) });
    outcomes.iter().all(|(_, outcome)| matches!(outcome, Some(Ok(()))))
}

type Outcomes = [(Leftover, Option<Result<(), String>>)];

fn as_text(outcomes: &Outcomes) -> String {
    if outcomes.is_empty() {
        return "Nothing is left over.\n".to_owned();
    }
    let mut text = String::new();
    for (leftover, outcome) in outcomes {
        let state = match outcome {
            None => String::new(),
            Some(Ok(())) => ": removed".to_owned(),
            Some(Err(why)) => format!(": stays: {why}"),
        };
        text.push_str(&format!("{:14}  {}{state}\n", leftover.kind.name(), leftover.what));
    }
    if outcomes.iter().all(|(_, outcome)| outcome.is_none()) {
        text.push_str("Remove all of it with: bulkhead doctor --leftovers --clean\n");
    }
    text
}

fn as_json(outcomes: &Outcomes) -> String {
    let rows: Vec<_> = outcomes
        .iter()
        .map(|(leftover, outcome)| {
            serde_json::json!({
                "kind": leftover.kind,
                "what": leftover.what,
                "removed": matches!(outcome, Some(Ok(()))),
                "problem": match outcome { Some(Err(why)) => Some(why), _ => None },
            })
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&rows).unwrap_or_default();
    text.push('\n');
    text
}
