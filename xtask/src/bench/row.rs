//! A row of a benchmark's table.

use serde::Serialize;

/// One figure of ours beside one peer's.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What is measured.
    pub(crate) name: String,
    /// The unit of the figures.
    pub(crate) unit: &'static str,
    /// Ours.
    pub(crate) ours: Option<f64>,
    /// The same without a sandbox.
    pub(crate) native: Option<f64>,
    /// The peer's.
    pub(crate) peer: Option<f64>,
    /// Who the peer is.
    pub(crate) peer_name: Option<String>,
    /// How many times better ours is than the peer's, whatever the unit: above 1 is ahead.
    pub(crate) ratio: Option<f64>,
    /// What we promise, in the row's unit.
    pub(crate) goal: Option<f64>,
    /// What to know of the figure.
    pub(crate) note: String,
}

impl Row {
    /// A row of ours alone.
    pub(crate) fn new(name: &str, unit: &'static str, ours: Option<f64>, note: &str) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            ours,
            native: None,
            peer: None,
            peer_name: None,
            ratio: None,
            goal: None,
            note: note.to_owned(),
        }
    }
}

/// Prints a table for a person.
pub(crate) fn print(rows: &[Row]) {
    let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let mut table =
        vec![["name", "unit", "ours", "native", "peer", "of", "ratio", "goal", "note"].map(str::to_owned)];
    table.extend(rows.iter().map(|row| {
        [
            row.name.clone(),
            row.unit.to_owned(),
            show(row.ours),
            show(row.native),
            show(row.peer),
            row.peer_name.clone().unwrap_or_else(|| "-".to_owned()),
            show(row.ratio),
            show(row.goal),
            row.note.clone(),
        ]
    }));
    let width = |column: usize| table.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    for line in &table {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}  {}", cells.join("  "), line[8]);
    }
}

/// The value in the middle; 0 of nothing.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
