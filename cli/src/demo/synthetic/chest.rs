//! Drawing chests: lungs, ribs, a heart, vessels, and in some a finding.
//!
//! Shades are those of a radiograph: air is dark (0), bone is bright (1). Places run from 0 to 1, left to
//! right and top to bottom, as one looks at the patient.

use super::difficulty;
use super::draws::Draws;

/// Where and how large findings usually are at one hospital.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Findings {
    /// The usual lung (0: left in the picture, 1: right) and height (0: top, 1: bottom).
    lung: usize,
    height: f64,
    /// Factor on the radius.
    scale: f64,
}

/// One finding, relative to the lung it is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Finding {
    lung: usize,
    across: f64,
    down: f64,
    radius: f64,
    strength: f64,
    stretch: f64,
}

impl Findings {
    pub(super) fn draw(draws: &mut Draws, number: u64) -> Self {
        // Neighbouring hospitals see different places, so that few hospitals already cover the lungs.
        let height = (0.25 + 0.5 * ((number / 2) % 2) as f64) + draws.between((-0.08, 0.08));
        Self { lung: (number % 2) as usize, height, scale: draws.between((0.8, 1.25)) }
    }

    /// A patient's finding.
    pub(super) fn one(&self, draws: &mut Draws) -> Finding {
        let usual = draws.unit() < difficulty::PREFERENCE;
        let lung = if usual { self.lung } else { (draws.word() % 2) as usize };
        let height = if usual { self.height + 0.12 * draws.normal() } else { draws.unit() };
        Finding {
            lung,
            across: draws.between((-0.6, 0.6)),
            down: (2.0 * height - 1.0).clamp(-0.8, 0.8),
            radius: self.scale * draws.between(difficulty::FINDING_RADIUS),
            strength: draws.between(difficulty::FINDING_STRENGTH),
            stretch: draws.between((0.7, 1.5)),
        }
    }
}

/// A patient's chest.
#[derive(Debug, Clone)]
pub(super) struct Body {
    centre: (f64, f64),
    scale: f64,
    lung_width: f64,
    lung_height: f64,
    air: f64,
    tissue: f64,
    heart: f64,
    ribs: f64,
    rib_count: f64,
}

impl Body {
    pub(super) fn draw(draws: &mut Draws) -> Self {
        Self {
            centre: (0.5 + 0.02 * draws.normal(), 0.5 + 0.02 * draws.normal()),
            scale: draws.between((0.9, 1.1)),
            lung_width: draws.between((0.13, 0.17)),
            lung_height: draws.between((0.28, 0.34)),
            air: draws.between((0.18, 0.32)),
            tissue: draws.between((0.55, 0.7)),
            heart: draws.between((0.10, 0.15)),
            ribs: draws.between((0.03, 0.08)),
            rib_count: draws.between((7.0, 10.0)),
        }
    }

    /// One picture of `side` x `side` shades, row after row. Each picture of a patient is taken anew: the
    /// patient stands a little differently.
    pub(super) fn picture(&self, side: usize, finding: Option<Finding>, draws: &mut Draws) -> Vec<f64> {
        let moved = (0.012 * draws.normal(), 0.012 * draws.normal());
        let rib_phase = draws.unit();
        let lookalikes: Vec<Finding> = (0..draws.word() % (difficulty::MOST_LOOKALIKES + 1))
            .map(|_| Finding {
                lung: (draws.word() % 2) as usize,
                across: draws.between((-0.9, 0.9)),
                down: draws.between((-0.9, 0.9)),
                radius: draws.between(difficulty::LOOKALIKE_RADIUS),
                strength: draws.between(difficulty::LOOKALIKE_STRENGTH),
                stretch: 1.0,
            })
            .collect();
        let spots: Vec<Finding> = finding.into_iter().chain(lookalikes).collect();
        let mut shades = Vec::with_capacity(side * side);
        for row in 0..side {
            for column in 0..side {
                let x = (column as f64 + 0.5) / side as f64 - moved.0;
                let y = (row as f64 + 0.5) / side as f64 - moved.1;
                let place = ((x - self.centre.0) / self.scale, (y - self.centre.1) / self.scale);
                shades.push(self.shade(place, rib_phase, &spots));
            }
        }
        shades
    }

    /// The middle of a lung, relative to the middle of the chest.
    fn lung(&self, lung: usize) -> (f64, f64) {
        let side = if lung == 0 { -1.0 } else { 1.0 };
        (side * (self.lung_width + 0.075), -0.02)
    }

    fn shade(&self, (x, y): (f64, f64), rib_phase: f64, spots: &[Finding]) -> f64 {
        // How far inside the body and the lungs: 1 well inside, 0 well outside.
        let body = falls(square(x / 0.46) + square(y / 0.62));
        let mut lungs = 0.0_f64;
        for lung in 0..2 {
            let (across, down) = self.lung(lung);
            let distance = square((x - across) / self.lung_width) + square((y - down) / self.lung_height);
            lungs = lungs.max(falls(distance));
        }
        let heart = falls(square((x - 0.05) / self.heart) + square((y - 0.12) / (1.2 * self.heart)));
        let spine = falls(square(x / 0.035));
        let mut shade = self.tissue * body;
        shade += (self.air - shade) * lungs * (1.0 - 0.8 * heart);
        shade += 0.12 * spine * body;
        // Ribs: slanted stripes, steeper towards the sides.
        let along = (y + 0.9 * square(x)) * self.rib_count + rib_phase;
        shade += self.ribs * triangle(along) * body;
        for spot in spots {
            let (across, down) = self.lung(spot.lung);
            let dx = x - across - spot.across * self.lung_width * 0.8;
            let dy = y - down - spot.down * self.lung_height * 0.85;
            let distance =
                square(dx / (spot.radius * spot.stretch)) + square(dy * spot.stretch / spot.radius);
            // Only in air does a spot show; behind the heart it is as faint as in life.
            shade += spot.strength * bell(distance) * (0.35 + 0.65 * lungs * (1.0 - 0.6 * heart));
        }
        shade
    }
}

fn square(value: f64) -> f64 {
    value * value
}

/// 1 at 0, one half at 1, soft between and towards 0 beyond; rational, so that every machine agrees.
fn falls(distance: f64) -> f64 {
    1.0 / (1.0 + square(square(distance)))
}

/// A bell of unit height: close to a Gaussian of variance one half, without a library's `exp`.
fn bell(distance: f64) -> f64 {
    1.0 / square(square(1.0 + distance / 4.0))
}

/// A wave from -1 to 1 of period 1.
fn triangle(value: f64) -> f64 {
    4.0 * (value - value.floor() - 0.5).abs() - 1.0
}
