//! The linear maps of F(2x2, 3x3) and F(4x4, 3x3), from the points at which their polynomials are taken.

/// Values that are transformed together, one a tile or a channel.
pub(super) const LANES: usize = 16;
/// So many values.
pub(super) type Lanes = [f32; LANES];
/// A square of them.
pub(super) type Patch<const SIDE: usize> = [[Lanes; SIDE]; SIDE];

/// Toom's and Cook's algorithm for `OUT` neighbouring outputs of a kernel of three, which need `READ = OUT + 2` inputs:
/// `outputs · ((kernels · g) ⊙ (inputs · d))`. It multiplies polynomials by their values at `READ - 1` points and at infinity
/// (Winograd 1980). In two dimensions each map is applied to columns and to rows.
pub(super) struct Form<const OUT: usize, const READ: usize>;

impl<const OUT: usize, const READ: usize> Form<OUT, READ> {
    /// `Bᵀ`: row `j` has the coefficients of the polynomial that is zero at every point but the one of `j`.
    pub(super) const INPUTS: [[f32; READ]; READ] = {
        let mut map = [[0.0; READ]; READ];
        let mut row = 0;
        while row < READ {
            let mut polynomial = [0.0; READ];
            polynomial[0] = 1.0;
            let mut other = 0;
            while other + 1 < READ {
                if other != row {
                    let mut power = READ - 1;
                    while power > 0 {
                        polynomial[power] = polynomial[power - 1] - point(OUT, other) * polynomial[power];
                        power -= 1;
                    }
                    polynomial[0] *= -point(OUT, other);
                }
                other += 1;
            }
            map[row] = rounded(polynomial);
            row += 1;
        }
        map
    };

    /// `G`: row `j` has the powers of its point, by the value there of its polynomial of [`Self::INPUTS`].
    pub(super) const KERNELS: [[f32; 3]; READ] = {
        let mut map = [[0.0, 0.0, 1.0]; READ];
        let mut row = 0;
        while row + 1 < READ {
            let (mut value, mut other) = (1.0, 0);
            while other + 1 < READ {
                if other != row {
                    value *= point(OUT, row) - point(OUT, other);
                }
                other += 1;
            }
            let point = point(OUT, row);
            map[row] = rounded([1.0 / value, point / value, point * point / value]);
            row += 1;
        }
        map
    };

    /// `Aᵀ`: column `j` has the powers of its point.
    pub(super) const OUTPUTS: [[f32; READ]; OUT] = {
        let mut map = [[0.0; READ]; OUT];
        let mut column = 0;
        while column + 1 < READ {
            let (mut value, mut power) = (1.0, 0);
            while power < OUT {
                map[power][column] = value as f32;
                value *= point(OUT, column);
                power += 1;
            }
            column += 1;
        }
        map[OUT - 1][READ - 1] = 1.0;
        map
    };
}

/// The points of a form. Those of F(4x4, 3x3) lie closer together than the usual 1 and 2: half the error.
const fn point(out: usize, which: usize) -> f64 {
    let step = if out == 2 { 1.0 } else { 0.75 };
    match which {
        0 => 0.0,
        1 => step,
        2 => -step,
        3 => 2.0 * step,
        _ => -2.0 * step,
    }
}

const fn rounded<const N: usize>(values: [f64; N]) -> [f32; N] {
    let mut out = [0.0; N];
    let mut at = 0;
    while at < N {
        out[at] = values[at] as f32;
        at += 1;
    }
    out
}

/// `map · patch · mapᵀ`, each place of every lane.
#[inline(always)]
pub(super) fn both_ways<const TO: usize, const FROM: usize>(
    map: &[[f32; FROM]; TO],
    patch: &Patch<FROM>,
) -> Patch<TO> {
    let mut columns = [[[0.0; LANES]; FROM]; TO];
    for (row, factors) in columns.iter_mut().zip(map) {
        for (at, out) in row.iter_mut().enumerate() {
            let mut sum = [0.0; LANES];
            for (from, factor) in patch.iter().zip(factors) {
                add(&mut sum, *factor, &from[at]);
            }
            *out = sum;
        }
    }
    let mut result = [[[0.0; LANES]; TO]; TO];
    for (result, columns) in result.iter_mut().zip(&columns) {
        for (out, factors) in result.iter_mut().zip(map) {
            let mut sum = [0.0; LANES];
            for (value, factor) in columns.iter().zip(factors) {
                add(&mut sum, *factor, value);
            }
            *out = sum;
        }
    }
    result
}

/// Adds a multiple. Factors are known where this is compiled, and zeros gone.
#[inline(always)]
fn add(sum: &mut Lanes, factor: f32, values: &Lanes) {
    if factor != 0.0 {
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
    }
}

/// `mapᵀ · patch · map`: the transpose of [`both_ways`].
#[inline(always)]
pub(super) fn both_ways_back<const TO: usize, const FROM: usize>(
    map: &[[f32; FROM]; TO],
    patch: &Patch<TO>,
) -> Patch<FROM> {
    let mut transposed = [[0.0; TO]; FROM];
    for (to, factors) in map.iter().enumerate() {
        for (from, factor) in factors.iter().enumerate() {
            transposed[from][to] = *factor;
        }
    }
    both_ways(&transposed, patch)
}
